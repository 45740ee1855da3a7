"""The Triton kernels, run by Triton's interpreter on the CPU, give the sums of the float64 formula.

The interpreter must be chosen before Triton is imported, so all cases run in one process of their own. It
keeps bfloat16 as integers and cannot multiply them; there the kernels widen the numbers first, which changes
no product, for those of two bfloat16 numbers are float32 numbers.
"""

import multiprocessing
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from viewmill.methods import kernel_sums
from viewmill.methods.vmf import hydes_loss, log_vmf_constant

from tests.methods.formulas import hydes_in_float64

pytestmark = pytest.mark.slow  # the interpreter takes milliseconds for a block

ROWS, DIM = 39, 20  # no multiples of the 16 x 16 blocks; tiles of 32 make plain, mirrored and own ones
OWN = {"all rows": (0, ROWS), "one of the ranks": (13, 30)}
# Relative to the largest entry of the gradient: p and z are rounded once, to 24, 11 or 8 bits.
BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}
CASES = [
    (torch.float32, "all rows", 0.1),
    (torch.float32, "all rows", 40.0),
    (torch.float32, "all rows", 100.0),
    (torch.float32, "one of the ranks", 10.0),
    (torch.float32, "one of the ranks", 100.0),
    *((dtype, "all rows", 10.0) for dtype in (torch.float16, torch.bfloat16)),
    *((dtype, "one of the ranks", 100.0) for dtype in (torch.float16, torch.bfloat16)),
]
VIEWS, IMAGES = 3, 6


def unit_vectors(dtype: torch.dtype) -> Tensor:
    z = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (z / z.norm(dim=1, keepdim=True)).to(dtype)


def embeddings(dtype: torch.dtype) -> Tensor:
    return torch.randn(
        VIEWS, IMAGES, DIM, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    ).to(dtype)


def in_float64(z: Tensor, kappa: float) -> tuple[Tensor, Tensor]:
    """Log row sums and attraction of all rows, with the whole kernel."""
    z = z.double()
    logits = (kappa * z @ z.T).fill_diagonal_(-torch.inf)
    log_sums = logits.logsumexp(dim=1)
    p = (logits - log_sums[:, None]).exp()
    return log_sums, (p + p.T) @ z


def interpreted() -> dict[str, Any]:
    """Every case by the kernels, in a process that has TRITON_INTERPRET set."""
    from viewmill.methods import triton_kernel_sums

    torch.set_num_threads(1)
    results: dict[str, Any] = {"sums": [], "pulls": [], "losses": []}
    with mock.patch.multiple(triton_kernel_sums, SIDE=16, TILE=32):
        for dtype, own, kappa in CASES:
            z, rows = unit_vectors(dtype), slice(*OWN[own])
            results["sums"].append(triton_kernel_sums.log_row_sums(z, rows, kappa))
            log_sums = in_float64(z, kappa)[0].float()
            results["pulls"].append(triton_kernel_sums.attraction(z, log_sums, rows, kappa))
        for dtype in (torch.float32, torch.bfloat16):
            z = embeddings(dtype).requires_grad_()
            with mock.patch.object(kernel_sums, "kernel_backend", return_value="triton"):
                loss = hydes_loss(z, kappa=5.0, beta=0.5).loss
                loss.backward()
            results["losses"].append((loss.detach(), z.grad))
    return results


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    pytest.importorskip("triton", reason="torch's builds for the CPU alone bring no Triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(interpreted)


def name_of(case: tuple[torch.dtype, str, float]) -> str:
    return f"{case[0]}, {case[1]}, kappa {case[2]}"


@pytest.mark.parametrize("number", range(len(CASES)), ids=[name_of(case) for case in CASES])
def test_row_sums_are_those_of_the_formula(results: dict[str, Any], number: int) -> None:
    dtype, own, kappa = CASES[number]
    expected, _ = in_float64(unit_vectors(dtype), kappa)
    found = results["sums"][number]
    assert found.dtype == torch.float32
    # Float32 holds the products of half types; a logit of up to kappa is off by 2^-24 of that.
    torch.testing.assert_close(
        found.double(), expected[slice(*OWN[own])], rtol=1e-6, atol=3e-7 * max(kappa, 2)
    )


@pytest.mark.parametrize("number", range(len(CASES)), ids=[name_of(case) for case in CASES])
def test_the_attraction_is_that_of_the_formula(results: dict[str, Any], number: int) -> None:
    dtype, own, kappa = CASES[number]
    _, expected = in_float64(unit_vectors(dtype), kappa)
    found = results["pulls"][number]
    assert found.dtype == torch.float32
    bound = BOUNDS[dtype] * expected.abs().max().item()
    torch.testing.assert_close(found.double(), expected[slice(*OWN[own])], rtol=0, atol=bound)


@pytest.mark.parametrize(("number", "dtype"), [(0, torch.float32), (1, torch.bfloat16)])
def test_the_loss_through_the_kernels_is_that_of_the_formula(
    results: dict[str, Any], number: int, dtype: torch.dtype
) -> None:
    z = embeddings(dtype)
    expected, _, _ = hydes_in_float64(z.double().numpy(), 5.0, 1.0, 0.5)
    loss, grad = results["losses"][number]
    expected += 0.5 * log_vmf_constant(DIM, 5.0)
    # Unit vectors of bfloat16 embeddings are rounded to bfloat16 again, by 2^-9 an entry: nats, not a share.
    assert loss.item() == pytest.approx(expected, abs=1e-6 if dtype == torch.float32 else 2e-3)
    leaf = z.double().requires_grad_()
    hydes_loss(leaf, kappa=5.0, beta=0.5).loss.backward()
    assert grad.dtype == dtype
    bound = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype] * leaf.grad.abs().max().item()
    torch.testing.assert_close(grad.double(), leaf.grad, rtol=0, atol=bound)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; the others interpret")
@pytest.mark.parametrize("kappa", [10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_the_loss_is_that_of_float64(dtype: torch.dtype, kappa: float) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(4, 2100, 200, generator=generator)  # more rows than a tile
    narrow = z.to("cuda", dtype).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    losses = [hydes_loss(z, kappa=kappa).loss for z in (narrow, wide)]
    for loss in losses:
        loss.backward()
    rounding = 0.0 if dtype == torch.float32 else 2e-3
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5, abs=rounding)
    bound = 2 * BOUNDS[dtype] * wide.grad.abs().max().item()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=0, atol=bound)
