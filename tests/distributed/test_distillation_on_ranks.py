"""On any number of ranks targets, loss and priors of distillation are those of the global batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.methods.distill import distillation_loss, teacher_targets
from viewmill.methods.priors import PriorAccumulator

from tests.methods.formulas import distillation_in_float64, targets_in_float64
from tests.support import run_ranks

IMAGES, CLUSTERS, TEMPERATURE = 8, 6, 0.3
GIVEN = torch.linspace(-1, 1, CLUSTERS, dtype=torch.float64)
TARGETS: list[dict[str, Any]] = [
    {"normalization": "none"},
    {"normalization": "prior"},
    {"normalization": "prior", "log_prior": GIVEN.log_softmax(0)},
    {"normalization": "prior", "prior_iterations": 4},
    {"normalization": "center"},
    {"normalization": "center", "center": GIVEN},
    {"normalization": "sinkhorn"},
]
LOSSES = [
    (views, teacher, kind) for views, teacher in ((4, 2), (2, 2), (1, 2)) for kind in ("kl", "cross_entropy")
]
DTYPES = (torch.float64, torch.float32)


def logits_of(views: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((views, IMAGES, CLUSTERS), generator=generator, dtype=torch.float64)


def targets_of(views: int) -> Tensor:
    targets = (3 * logits_of(views, seed=9)).softmax(dim=2)
    targets[:, :, 0] = 0  # 0 log 0 is 0
    return targets / targets.sum(dim=2, keepdim=True)


def results_of_rank(rank: int) -> dict[str, Any]:
    share = IMAGES // dist.get_world_size()
    own = slice(rank * share, (rank + 1) * share)
    results: dict[str, Any] = {"targets": [], "losses": [], "gradients": []}
    for dtype in DTYPES:
        for options in TARGETS:
            found = teacher_targets(
                logits_of(1, seed=0)[0, own].to(dtype), temperature=TEMPERATURE, **options
            )
            results["targets"].append(found)
        for views, teacher, kind in LOSSES:
            student = logits_of(views, seed=1)[:, own].to(dtype).requires_grad_()
            loss = distillation_loss(
                student, targets_of(teacher)[:, own].to(dtype), temperature=TEMPERATURE, kind=kind
            )
            loss.backward()
            results["losses"].append(loss.detach())
            results["gradients"].append(student.grad)
    # Ranks may have any numbers of samples: the last one takes all that is left, the first none.
    accumulator = PriorAccumulator(CLUSTERS)
    if rank == dist.get_world_size() - 1:
        accumulator.update(logits_of(1, seed=0)[0, :3].float(), TEMPERATURE)
        accumulator.update(logits_of(1, seed=0)[0, 3:].float(), TEMPERATURE)
    results["log_prior"] = accumulator.log_prior()
    results["count"] = accumulator.count
    results["refusals"] = [refusal(rank, call) for call in (targets_of_unequal, loss_of_unequal)]
    return results


def targets_of_unequal(rank: int) -> None:
    teacher_targets(logits_of(1, seed=0)[0, : rank + 1], temperature=TEMPERATURE, normalization="prior")


def loss_of_unequal(rank: int) -> None:
    own = slice(0, rank + 1)
    distillation_loss(logits_of(2, seed=1)[:, own], targets_of(2)[:, own], temperature=TEMPERATURE)


def refusal(rank: int, call: Callable[[int], None]) -> str:
    """What it says to n = rank + 1 images."""
    try:
        call(rank)
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(request.param, results_of_rank)


def tolerance_of(case: int, cases: int) -> float:
    return 1e-10 if case < cases else 2e-5


@pytest.mark.parametrize("case", range(2 * len(TARGETS)))
def test_targets_are_those_of_the_global_batch(ranks: list[dict[str, Any]], case: int) -> None:
    options = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in TARGETS[case % len(TARGETS)].items()}
    expected = targets_in_float64(logits_of(1, seed=0)[0].numpy(), TEMPERATURE, **options)
    found = torch.cat([result["targets"][case] for result in ranks]).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=tolerance_of(case, len(TARGETS)), atol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("case", range(2 * len(LOSSES)))
def test_loss_and_gradient_are_those_of_the_global_batch(ranks: list[dict[str, Any]], case: int) -> None:
    views, teacher, kind = LOSSES[case % len(LOSSES)]
    expected, gradient = distillation_in_float64(
        logits_of(views, seed=1).numpy(), targets_of(teacher).numpy(), TEMPERATURE, kind
    )
    tolerance = tolerance_of(case, len(LOSSES))
    for result in ranks:
        assert result["losses"][case].item() == pytest.approx(expected, rel=tolerance)
    joined = torch.cat([result["gradients"][case] for result in ranks], dim=1).double() / len(ranks)
    np.testing.assert_allclose(joined.numpy(), gradient, rtol=tolerance, atol=tolerance * abs(gradient).max())


def test_the_prior_is_that_of_all_samples_wherever_they_were_added(ranks: list[dict[str, Any]]) -> None:
    logits = logits_of(1, seed=0)[0].float().double().numpy()
    expected = targets_in_float64(logits, TEMPERATURE, "none").mean(axis=0)
    for result in ranks:
        np.testing.assert_allclose(result["log_prior"].exp().numpy(), expected, rtol=1e-12)
        assert result["count"] == IMAGES


def test_unequal_shares_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        for text in result["refusals"]:
            assert (f"differs between ranks (1 to {len(ranks)}" in text) == (len(ranks) > 1)
