"""On any number of ranks HyDeS is the loss of the global batch, and its backward communicates nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.methods import kernel_sums
from viewmill.methods.vmf import hydes_loss, log_vmf_constant
from viewmill.tools.bench.loss_peers import whole_kernel_hydes
from viewmill.tools.bench.traffic import counted

from tests.methods.formulas import hydes_in_float64
from tests.support import run_ranks

VIEWS, IMAGES, DIM = 3, 8, 6
SETTINGS = [(1.0, 1.0, 1.0), (10.0, 1.0, 0.5), (60.0, 0.7, 1.0)]
COLLECTIVES = [
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce_scatter_tensor",
    "broadcast",
    "all_to_all_single",
]


def global_batch(dtype: torch.dtype) -> Tensor:
    return torch.randn(
        VIEWS, IMAGES, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(dtype)


@contextmanager
def silence() -> Iterator[None]:
    """No collective may run inside."""
    refuse = mock.Mock(side_effect=AssertionError("a collective in the backward"))
    with mock.patch.multiple(dist, **dict.fromkeys(COLLECTIVES, refuse)):
        yield


@mock.patch.object(kernel_sums, "TILE", 5)  # divides no rank's share: edges and mirrored tiles all occur
def losses_and_gradients(rank: int) -> list[dict[str, Any]]:
    """Of this rank's images, for every setting and dtype, and what unequal shares give."""
    share = IMAGES // dist.get_world_size()
    results: list[dict[str, Any]] = []
    for dtype in (torch.float64, torch.float32):
        for kappa, alpha, beta in SETTINGS:
            z = global_batch(dtype)[:, rank * share : (rank + 1) * share].clone().requires_grad_()
            result = hydes_loss(z, kappa=kappa, alpha=alpha, beta=beta)
            with silence():
                result.loss.backward()
            fields = {name: field.detach() for name, field in result._asdict().items()}
            results.append({**fields, "grad": z.grad})
    with counted() as traffic:
        z = global_batch(torch.float32)[:, rank * share : (rank + 1) * share].clone().requires_grad_()
        hydes_loss(z).loss.backward()
    results.append({"sent": traffic.sent.get("all_gather_into_tensor", 0), "shares": sorted(traffic.sent)})
    try:
        hydes_loss(global_batch(torch.float32)[:, : rank + 1])
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


CASES = [(dtype, setting) for dtype in (torch.float64, torch.float32) for setting in SETTINGS]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_every_rank_has_the_loss_of_the_global_batch(ranks: list[list[dict[str, Any]]], case: int) -> None:
    dtype, (kappa, alpha, beta) = CASES[case]
    expected, _, _ = hydes_in_float64(global_batch(torch.float64).numpy(), kappa, alpha, beta)
    expected += (alpha - beta) * log_vmf_constant(DIM, kappa)
    for result in ranks:
        assert result[case]["loss"].item() == pytest.approx(
            expected, rel=1e-10 if dtype == torch.float64 else 1e-5
        )
        assert torch.equal(result[case]["loss"], ranks[0][case]["loss"])
        assert torch.equal(result[case]["h_global"], ranks[0][case]["h_global"])


@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_ranks_gradient_is_world_size_times_its_part(ranks: list[list[dict[str, Any]]], case: int) -> None:
    dtype, (kappa, alpha, beta) = CASES[case]
    z = global_batch(torch.float64).requires_grad_()
    whole_kernel_hydes(z, kappa, alpha, beta).backward()
    joined = torch.cat([result[case]["grad"] for result in ranks], dim=1).double() / len(ranks)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(joined, z.grad, rtol=tolerance, atol=tolerance * z.grad.abs().max().item())


def test_bytes_sent_are_those_of_the_docstring(ranks: list[list[dict[str, Any]]]) -> None:
    vectors, world_size = VIEWS * IMAGES // len(ranks), len(ranks)
    for result in ranks:
        assert result[-2]["sent"] == vectors * (DIM + 1) * 4 * (world_size - 1)
        assert set(result[-2]["shares"]) <= {"all_gather_into_tensor", "all_reduce"}


def test_unequal_shares_are_refused_on_every_rank(ranks: list[list[dict[str, Any]]]) -> None:
    if len(ranks) == 1:
        assert ranks[0][-1]["refusal"] == ""  # one image of three views is a batch
        return
    for result in ranks:
        assert f"size of dimension 1 differs between ranks (1 to {len(ranks)}" in result[-1]["refusal"]
