"""The HyDeS loss of one process: constant, values, gradients, invariances, memory, refusals."""

import math
from typing import Any
from unittest import mock

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from viewmill.methods import kernel_sums
from viewmill.methods.vmf import hydes_loss, log_vmf_constant
from viewmill.tools.bench.loss_peers import whole_kernel_hydes
from viewmill.tools.bench.loss_process import IN_PLACE

from tests.methods.formulas import hydes_in_float64

SETTINGS = [(1.0, 1.0, 1.0), (10.0, 1.0, 0.5), (0.1, 0.3, 2.0), (60.0, 1.0, 1.0)]


def embeddings(views: int, images: int, dim: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(views, images, dim, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3, 128, 256, 4096])
@pytest.mark.parametrize("kappa", [0.1, math.log(2), 1.0, 20.0, 300.0, 1000.0])
def test_the_constant_is_that_of_the_bessel_function(dim: int, kappa: float) -> None:
    with mpmath.workdps(40):
        order = mpmath.mpf(dim) / 2 - 1
        exact = order * mpmath.log(kappa) - mpmath.mpf(dim) / 2 * mpmath.log(2 * mpmath.pi)
        exact -= mpmath.log(mpmath.besseli(order, kappa))
    assert log_vmf_constant(dim, kappa) == pytest.approx(float(exact), rel=1e-12, abs=1e-10)


def test_the_density_integrates_to_one_on_the_circle() -> None:
    angles = 2 * math.pi * (np.arange(2000) + 0.5) / 2000
    density = np.exp(log_vmf_constant(2, 3.0) + 3.0 * np.cos(angles))
    assert density.sum() * 2 * math.pi / 2000 == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("kappa", "alpha", "beta"), SETTINGS)
def test_values_are_those_of_the_formula(kappa: float, alpha: float, beta: float) -> None:
    z = embeddings(3, 5, 8)
    loss, h_global, h_local = hydes_in_float64(z.numpy(), kappa, alpha, beta)
    constant = log_vmf_constant(8, kappa)
    result = hydes_loss(z, kappa=kappa, alpha=alpha, beta=beta)
    # The constant is in both entropies, so in the loss it is (alpha - beta) times itself.
    assert result.loss.item() == pytest.approx(loss + (alpha - beta) * constant, rel=1e-10)
    assert result.h_global.item() == pytest.approx(h_global - constant, rel=1e-10)
    assert result.h_local.item() == pytest.approx(h_local - constant, rel=1e-10)
    assert result.mutual_information.item() == pytest.approx(-result.loss.item(), rel=1e-12)


@pytest.mark.parametrize("tile", [4, 7, 1024])
@pytest.mark.parametrize(("kappa", "alpha", "beta"), SETTINGS)
def test_gradients_are_those_of_the_formula(
    kappa: float, alpha: float, beta: float, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch, tile)
    ours, naive = (embeddings(3, 6, 8).requires_grad_() for _ in range(2))
    hydes_loss(ours, kappa=kappa, alpha=alpha, beta=beta).loss.backward()
    whole_kernel_hydes(naive, kappa, alpha, beta).backward()
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-10, atol=1e-13)


def small_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    """Tiles that do not divide the batch."""
    monkeypatch.setattr(kernel_sums, "TILE", tile)


@pytest.mark.parametrize("kappa", [2.0, 50.0])
def test_gradients_agree_with_finite_differences(kappa: float) -> None:
    z = embeddings(2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: hydes_loss(z, kappa=kappa, alpha=1.3, beta=0.7).loss, (z,))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    views=st.integers(2, 5), images=st.integers(1, 9), dim=st.integers(2, 9), tile=st.integers(1, 50),
    kappa=st.sampled_from([0.1, math.log(2), 20.0, 40.0, 41.0, 100.0]),
)  # fmt: skip
def test_value_and_gradient_are_those_of_the_formula_for_any_shape(
    views: int, images: int, dim: int, tile: int, kappa: float
) -> None:
    ours, naive = (embeddings(views, images, dim).requires_grad_() for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        small_tiles(patch, tile)
        found = hydes_loss(ours, kappa=kappa).loss
        found.backward()
    expected = whole_kernel_hydes(naive, kappa, 1.0, 1.0)
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.grad, naive.grad, rtol=1e-10, atol=1e-12)


# Of the largest entry: float32 rounds sums of 24 bits, bfloat16 the gradient that it is given back to 8.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_narrow_types_stay_within_their_bounds(dtype: torch.dtype, bound: float) -> None:
    narrow = embeddings(4, 16, 32).to(dtype).requires_grad_()
    wide = narrow.detach().double().requires_grad_()
    found, expected = (hydes_loss(z, kappa=10.0).loss for z in (narrow, wide))
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert narrow.grad is not None
    largest = wide.grad.abs().max().item()
    torch.testing.assert_close(narrow.grad.double(), wide.grad, rtol=0, atol=bound * largest)


def products_of_a_step(first: int, own: int, total: int) -> int:
    """Multiplications, D being 1, of the sums and their gradient for `own` of `total` unit vectors."""
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        z = torch.ones(total, 1)
        rows = slice(first, first + own)
        kernel_sums.log_row_sums(z, rows, 1.0)
        kernel_sums.attraction(z, torch.ones(total), rows, 1.0)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize(("first", "total"), [(0, 256), (64, 512)])
def test_own_rows_take_half_of_the_tiles(first: int, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 16)
    own, others = 256, total - 256
    above = own * (own + 16) // 2  # tiles on and above the diagonal
    # Logits twice, a product that serves rows, and one that serves the columns of the tiles above.
    among_own = 3 * above + (above - own * 16)
    assert products_of_a_step(first, own, total) == among_own + 3 * own * others


@pytest.mark.parametrize("kappa", [1.0, 60.0])
def test_a_rank_sums_among_its_own_while_the_others_vectors_travel(
    kappa: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_tiles(monkeypatch, 4)
    z = torch.nn.functional.normalize(embeddings(1, 24, 8)[0], dim=1)
    own, here = slice(6, 16), torch.full_like(z, torch.nan)
    here[own] = z[own]
    products: list[int] = []
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:

        def arrived() -> None:
            products.append(counter.get_total_flops() // (2 * z.shape[1]))
            here.copy_(z)

        sums = kernel_sums.log_row_sums(here, own, kappa, arrived)
    torch.testing.assert_close(sums, kernel_sums.log_row_sums(z, own, kappa), rtol=0, atol=0)
    assert products == [4 * 4 + 4 * 4 + 4 * 2 + 4 * 4 + 4 * 2 + 2 * 2]  # tiles on and above the diagonal


def test_no_maximum_is_sought_up_to_kappa_40(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = mock.Mock(side_effect=AssertionError("sums in logarithms"))
    monkeypatch.setattr(kernel_sums, "_sum_in_logs", refuse)
    monkeypatch.setattr(kernel_sums, "_weigh_in_logs", refuse)
    hydes_loss(embeddings(2, 4, 5).requires_grad_(), kappa=40.0).loss.backward()
    with pytest.raises(AssertionError, match="in logarithms"):
        hydes_loss(embeddings(2, 4, 5), kappa=40.1)


def test_a_cpu_and_float64_are_summed_by_torch() -> None:
    assert kernel_sums.kernel_backend(torch.device("cpu"), torch.bfloat16) == "torch"
    assert kernel_sums.kernel_backend(torch.device("cuda"), torch.float64) == "torch"


@pytest.mark.parametrize(
    ("capability", "backend"), [((7, 0), "torch"), ((8, 0), "triton"), ((9, 0), "triton")]
)
def test_a_gpu_below_capability_8_is_summed_by_torch(
    capability: tuple[int, int], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="torch's builds for the CPU alone bring no Triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cuda")
    assert kernel_sums.kernel_backend(device, torch.bfloat16) == backend
    kept = torch.bfloat16 if backend == "triton" else torch.float32
    assert kernel_sums.kernel_dtype(device, torch.bfloat16) == kept


def test_half_types_are_summed_in_float32_and_get_their_gradient_back() -> None:
    z = embeddings(2, 8, 16).bfloat16().requires_grad_()
    result = hydes_loss(z, kappa=5.0)
    result.loss.backward()
    assert result.loss.dtype == torch.float32
    assert z.grad is not None
    assert z.grad.dtype == torch.bfloat16
    assert result.loss.item() == pytest.approx(
        hydes_loss(z.detach().float(), kappa=5.0).loss.item(), rel=1e-6
    )


def test_a_rotation_changes_nothing() -> None:
    z = embeddings(2, 8, 6)
    rotation, _ = torch.linalg.qr(embeddings(1, 6, 6, seed=1)[0])
    torch.testing.assert_close(hydes_loss(z @ rotation).loss, hydes_loss(z).loss, rtol=1e-12, atol=1e-12)


def test_lengths_of_the_embeddings_change_nothing() -> None:
    z = embeddings(2, 8, 6)
    lengths = torch.linspace(0.1, 50, 16, dtype=torch.float64).view(2, 8, 1)
    torch.testing.assert_close(hydes_loss(z * lengths).loss, hydes_loss(z).loss, rtol=1e-12, atol=1e-12)


def test_the_order_of_images_and_views_changes_nothing() -> None:
    z = embeddings(3, 8, 6)
    shuffled = z[[2, 0, 1]][:, torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    torch.testing.assert_close(hydes_loss(shuffled).loss, hydes_loss(z).loss, rtol=1e-12, atol=1e-12)


def test_the_loss_is_linear_in_alpha_and_beta() -> None:
    z = embeddings(3, 4, 6)
    both = hydes_loss(z, kappa=5.0, alpha=2.0, beta=3.0)
    parts = [hydes_loss(z, kappa=5.0, alpha=a, beta=b).loss for a, b in ((1.0, 0.0), (0.0, 1.0))]
    torch.testing.assert_close(both.loss, 2 * parts[0] + 3 * parts[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.mutual_information, 2 * both.h_global - 3 * both.h_local)


def test_a_zero_vector_has_a_finite_loss_and_gradient() -> None:
    z = embeddings(2, 4, 5).float()
    z[0, 0] = 0
    z.requires_grad_()
    loss = hydes_loss(z).loss
    loss.backward()
    assert z.grad is not None
    assert math.isfinite(loss.item())
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("kappa", [1.0, 60.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_embedding_that_is_not_finite_shows_in_the_loss(bad: float, kappa: float) -> None:
    z = embeddings(2, 4, 5)
    z[1, 2, 3] = bad
    assert hydes_loss(z, kappa=kappa).loss.isnan()


def test_autocast_does_not_round_the_sums() -> None:
    plain, cast = (embeddings(3, 6, 8).float().requires_grad_() for _ in range(2))
    expected = hydes_loss(plain, kappa=10.0).loss
    expected.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = hydes_loss(cast, kappa=10.0).loss
        loss.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(cast.grad, plain.grad)


@pytest.mark.parametrize("kappa", [39.9, 40.1, 500.0])
def test_opposite_vectors_leave_float32_in_range(kappa: float) -> None:
    z = torch.ones(2, 2, 3)
    z[:, 1] = -1
    loss, _, _ = hydes_in_float64(z.double().numpy(), kappa, 1.0, 1.0)
    assert hydes_loss(z, kappa=kappa).loss.item() == pytest.approx(loss, rel=1e-5)


def test_only_the_loss_carries_gradient() -> None:
    result = hydes_loss(embeddings(2, 4, 5).requires_grad_())
    assert result.loss.requires_grad
    assert [field.requires_grad for field in result[1:]] == [False, False, False]
    assert all(field.ndim == 0 for field in result)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operator makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


def test_no_tensor_is_larger_than_the_embeddings_and_one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    small_tiles(monkeypatch, 64)
    z = embeddings(2, 512, 8).requires_grad_()
    with LargestTensor() as largest:
        hydes_loss(z, kappa=10.0).loss.backward()
    assert largest.numel == max(z.numel(), 64 * 64)  # the kernel would have 1024 x 1024


@pytest.mark.parametrize("shape", [(1, 8, 4), (8, 4), (2, 0, 4), (2, 8, 1)])
def test_a_shape_without_a_meaning_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        hydes_loss(torch.ones(shape))


@pytest.mark.parametrize("kappa", [0.0, -1.0, math.inf, math.nan])
def test_a_kappa_without_a_meaning_is_refused(kappa: float) -> None:
    with pytest.raises(ValueError, match="kappa"):
        hydes_loss(embeddings(2, 4, 4), kappa=kappa)


def test_a_wide_embedding_costs_the_loss_no_digits() -> None:
    z = embeddings(2, 16, 4096)
    in_float64 = hydes_loss(z, kappa=1.0).loss.item()  # 3e-2 nats, beside a constant of 12,000
    assert hydes_loss(z.float(), kappa=1.0).loss.item() == pytest.approx(in_float64, rel=1e-4)
