"""On any number of ranks IMSVD is the loss of the global batch, though no rank has the whole joint matrix."""

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.methods import joint_entropy
from viewmill.methods.imsvd import imsvd_loss
from viewmill.tools.bench.traffic import counted

from tests.methods.formulas import imsvd_in_float64
from tests.support import run_ranks

IMAGES, VARIABLES, UNITS = (
    8,
    5,
    3,
)  # 15 columns: no even share for 2, 4 or 8 ranks, some begin inside a variable
SETTINGS: list[dict[str, Any]] = [
    {},
    {"weight": 0.7, "similarity": "cross_entropy", "entropy_weights": "equation", "temperature": 0.8},
    {"joint": "self", "weight": 1.3},
    {"terms": ("diagonal", "offdiagonal")},
    {"terms": ("invariance", "offdiagonal"), "joint": "self"},
]
DTYPES = (torch.float64, torch.float32)
CASES = [(dtype, setting) for dtype in DTYPES for setting in SETTINGS]


def global_batch(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, VARIABLES * UNITS)
    z1, z2 = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return z1.to(dtype), z2.to(dtype)


def share_of(z: Tensor, rank: int, count: int) -> Tensor:
    size = IMAGES // count
    return z[rank * size : (rank + 1) * size].clone().requires_grad_()


@mock.patch.multiple(joint_entropy, BLOCK_NUMBERS=0, LEAST_COLUMNS=2)  # two columns a block: edges occur
def losses_and_gradients(rank: int) -> list[dict[str, Any]]:
    """Of this rank's images, for every case, and what unequal shares give."""
    results: list[dict[str, Any]] = []
    for dtype, setting in CASES:
        z1, z2 = (share_of(z, rank, dist.get_world_size()) for z in global_batch(dtype))
        result = imsvd_loss(z1, z2, units=UNITS, **setting)
        result.loss.backward()
        results.append({**{k: v.detach() for k, v in result._asdict().items()}, "grads": (z1.grad, z2.grad)})
    with counted() as traffic:
        z1, z2 = (share_of(z, rank, dist.get_world_size()) for z in global_batch(torch.float32))
        imsvd_loss(z1, z2, units=UNITS).loss.backward()
    results.append({"sent": sum(v for k, v in traffic.sent.items() if k != "all_reduce")})
    try:
        unequal = [z[: rank + 1] for z in global_batch(torch.float32)]
        imsvd_loss(*unequal, units=UNITS)
        results.append({"refusal": ""})
    except ValueError as error:
        results.append({"refusal": str(error)})
    return results


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def ranks(request: pytest.FixtureRequest) -> list[list[dict[str, Any]]]:
    return run_ranks(request.param, losses_and_gradients)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_rank_has_the_loss_of_the_global_batch(ranks: list[list[dict[str, Any]]], case: int) -> None:
    dtype, setting = CASES[case]
    expected = [value.item() for value in imsvd_in_float64(*global_batch(torch.float64), UNITS, **setting)]
    fields = ("loss", "invariance", "diagonal_entropy", "offdiagonal_entropy")
    for result in ranks:
        found = [result[case][field].item() for field in fields]
        assert found == pytest.approx(expected, rel=1e-10 if dtype == torch.float64 else 1e-5)
        assert found == [ranks[0][case][field].item() for field in fields]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_ranks_gradient_is_world_size_times_its_part(ranks: list[list[dict[str, Any]]], case: int) -> None:
    dtype, setting = CASES[case]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    batch = [z.requires_grad_() for z in global_batch(torch.float64)]
    imsvd_in_float64(*batch, UNITS, **setting)[0].backward()
    for view, z in enumerate(batch):
        joined = torch.cat([result[case]["grads"][view] for result in ranks]).double() / len(ranks)
        torch.testing.assert_close(joined, z.grad, rtol=tolerance, atol=tolerance * z.grad.abs().max().item())


def test_bytes_sent_are_those_of_the_docstring(ranks: list[list[dict[str, Any]]]) -> None:
    world_size, dim = len(ranks), VARIABLES * UNITS
    n = IMAGES // world_size
    for rank, result in enumerate(ranks):
        own = dim * (rank + 1) // world_size - dim * rank // world_size
        forward = n * dim * (world_size - 1) + n * (dim - own)
        backward = n * dim * (world_size - 1) + n * own * (world_size - 1)
        assert result[-2]["sent"] == 4 * (forward + backward)


def test_unequal_shares_are_refused_on_every_rank(ranks: list[list[dict[str, Any]]]) -> None:
    if len(ranks) == 1:
        assert ranks[0][-1]["refusal"] == ""
        return
    for result in ranks:
        assert f"size of dimension 0 differs between ranks (1 to {len(ranks)}" in result[-1]["refusal"]
