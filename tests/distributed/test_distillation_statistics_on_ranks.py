"""On any number of ranks the targets of a distillation's statistics are those of the global batch."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.families.distillation import SMALLEST_VARIANCE, Distillation
from viewmill.methods.heads import Projector

from tests.support import run_ranks

VIEWS, IMAGES, WIDTH, DIM, CLUSTERS, TEMPERATURE, MOMENTUM = 2, 8, 6, 4, 5, 0.3, 0.8
CASES = [
    (normalization, scope)
    for normalization in ("prior", "center", "batchnorm")
    for scope in ("batch", "ema", "streaming")
]
STEPS = 4  # two epochs of two: a window of "streaming" ends between them
VALUES = {"teacher_temperature": TEMPERATURE}


def head() -> ClusterHead:
    torch.manual_seed(0)
    return ClusterHead(Projector(WIDTH, 8, DIM, layers=1), CLUSTERS).double().eval()


def representations(step: int) -> Tensor:
    """(2, 8, 6) float64, far from zero in the mean."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(VIEWS, IMAGES, WIDTH, generator=generator, dtype=torch.float64) + 1


def targets_of_rank(rank: int) -> dict[str, list[Tensor]]:
    share = IMAGES // dist.get_world_size()
    own = slice(rank * share, (rank + 1) * share)
    results: dict[str, list[Tensor]] = {}
    for normalization, scope in CASES:
        options = {"momentum": MOMENTUM} if scope == "ema" else {}
        teacher = head()
        method = Distillation(head(), normalization=normalization, scope=scope, **options)
        found = results.setdefault(f"{normalization} {scope}", [])
        for step in range(STEPS):
            if step % 2 == 0:
                method.before_epoch(step // 2)
            found.append(method.targets(teacher, representations(step)[:, own], VALUES))
    return results


def expected(normalization: str, scope: str) -> list[np.ndarray]:
    """Step by step, in NumPy, of the whole batch."""
    teacher = head()
    projector = teacher.projector[0]
    weight, bias = (x.detach().numpy() for x in (projector.weight, projector.bias))
    w = teacher.directions.detach().numpy()
    w = w / np.sqrt((w**2).sum(axis=1, keepdims=True))
    seen: list[np.ndarray] = []  # rows of every step so far
    running: np.ndarray | None = None
    results = []
    for step in range(STEPS):
        features = representations(step).numpy().reshape(-1, WIDTH) @ weight.T + bias
        logits = unit(features) @ w.T
        statistic = {
            "prior": softmax(logits / TEMPERATURE),
            "center": logits,
            "batchnorm": np.concatenate([features, features**2], axis=1),
        }[normalization]
        seen.append(statistic)
        mean = statistic.mean(axis=0)
        if scope == "ema":
            mean = mean if running is None else MOMENTUM * running + (1 - MOMENTUM) * mean
            running = mean
        elif scope == "streaming":
            mean = np.concatenate(seen[: step + 1] if step < 2 else seen[:2]).mean(axis=0)
        if normalization == "prior":
            q = softmax(logits / TEMPERATURE) / mean
            q = q / q.sum(axis=1, keepdims=True)
        elif normalization == "center":
            q = softmax((logits - mean) / TEMPERATURE)
        else:
            center, square = mean[:DIM], mean[DIM:]
            normal = (features - center) / np.sqrt(square - center**2 + SMALLEST_VARIANCE)
            q = softmax(unit(normal) @ w.T / TEMPERATURE)
        results.append(q.reshape(VIEWS, IMAGES, CLUSTERS))
    return results


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


def softmax(rows: np.ndarray) -> np.ndarray:
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(request.param, targets_of_rank)


@pytest.mark.parametrize(("normalization", "scope"), CASES)
def test_targets_are_those_of_the_global_batch_at_every_step(
    ranks: list[dict[str, Any]], normalization: str, scope: str
) -> None:
    for step, whole in enumerate(expected(normalization, scope)):
        found = torch.cat([result[f"{normalization} {scope}"][step] for result in ranks], dim=1)
        np.testing.assert_allclose(found.numpy(), whole, rtol=1e-10, err_msg=f"step {step}")
