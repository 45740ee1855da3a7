"""IMSVD in one process: any shape, finite differences, narrow types, and what is refused."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from viewmill.methods import imsvd, joint_entropy
from viewmill.methods.imsvd import SMALLEST, imsvd_loss, soft_variables
from viewmill.tools.bench.loss_peers import whole_matrix_imsvd

from tests.methods.formulas import imsvd_in_float64

OPTIONS: list[dict[str, Any]] = [
    {},
    {"similarity": "cross_entropy", "entropy_weights": "equation", "temperature": 0.7},
    {"joint": "self", "weight": 0.5},
]


def logits(images: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z1, z2 = (2 * torch.randn(images, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    return z1.requires_grad_(), z2.requires_grad_()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 9), variables=st.integers(2, 6), units=st.integers(2, 5),
    columns=st.integers(1, 7), options=st.sampled_from(OPTIONS),
)  # fmt: skip
def test_value_and_gradient_are_those_of_the_formula_for_any_shape(
    images: int, variables: int, units: int, columns: int, options: dict[str, Any]
) -> None:
    ours, plain = logits(images, variables * units), logits(images, variables * units)
    with pytest.MonkeyPatch.context() as patch:  # blocks that divide neither variables nor columns
        patch.setattr(joint_entropy, "BLOCK_NUMBERS", 0)
        patch.setattr(joint_entropy, "LEAST_COLUMNS", columns)
        found = imsvd_loss(*ours, units=units, **options).loss
        found.backward()
    expected = imsvd_in_float64(*plain, units, **options)[0]
    expected.backward()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    for z, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(z.grad, reference.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_agree_with_finite_differences(options: dict[str, Any]) -> None:
    assert torch.autograd.gradcheck(lambda z1, z2: imsvd_loss(z1, z2, units=3, **options).loss, logits(4, 6))


def test_what_is_clamped_has_no_gradient_of_its_own() -> None:
    z, plain = (torch.tensor([[40.0, 0, 1, 2]], dtype=torch.float64).requires_grad_() for _ in range(2))
    weights = torch.tensor([[1.0, -2, 3, 5]], dtype=torch.float64)
    q = soft_variables(z, units=2)
    assert q[0, 1].item() == SMALLEST
    (weights * q).sum().backward()
    (weights * plain.view(1, 2, 2).softmax(dim=2).clamp(min=SMALLEST).view(1, 4)).sum().backward()
    torch.testing.assert_close(z.grad, plain.grad, rtol=1e-12, atol=0)


# float32 rounds sums of 24 bits; bfloat16 logits are exact inputs, and their gradient is rounded to 8 bits.
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-3)])
def test_narrow_types_stay_within_their_bounds(dtype: torch.dtype, bound: float) -> None:
    narrow = [z.detach().to(dtype).requires_grad_() for z in logits(32, 48)]
    wide = [z.detach().double().requires_grad_() for z in narrow]
    found, expected = imsvd_loss(*narrow, units=6).loss, imsvd_in_float64(*wide, 6)[0]
    found.backward()
    expected.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    for z, reference in zip(narrow, wide, strict=True):
        assert z.grad is not None
        assert z.grad.dtype == dtype
        largest = reference.grad.abs().max().item()
        torch.testing.assert_close(z.grad.double(), reference.grad, rtol=bound, atol=bound * largest)


def test_the_benchs_plain_version_is_the_formula() -> None:
    z1, z2 = logits(6, 12)
    expected = imsvd_in_float64(z1, z2, 3)[0]
    torch.testing.assert_close(whole_matrix_imsvd(z1, z2, 3), expected, rtol=1e-12, atol=0)


def test_probabilities_travel_while_the_rest_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def note(*args: Any, **options: Any) -> Any:
            order.append(name)
            return real(*args, **options)

        monkeypatch.setattr(owner, name, note)

    for name in ("soft_variables", "_dissimilarity"):
        noted(imsvd, name)
    for name in ("rows", "columns", "arrived"):
        noted(joint_entropy.Exchange, name)
    imsvd_loss(torch.randn(4, 12), torch.randn(4, 12), units=3)
    assert order == ["soft_variables", "rows", "soft_variables", "columns", "_dissimilarity", "arrived"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 5}, "12 logits are no 2 or more variables of 5"),
        ({"units": 12}, "no 2 or more variables"),
        ({"similarity": "cosine"}, "'cosine' is not one of inner, cross_entropy"),
        ({"entropy_weights": "even"}, "'even' is not one of per_block, equation"),
        ({"joint": "both"}, "'both' is not one of cross, self"),
        ({"terms": ("variance",)}, "'variance' is not one of invariance"),
        ({"terms": ()}, "need a term"),
        ({"temperature": 0.0}, "temperature > 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imsvd_loss(*logits(4, 12), **{"units": 3, **options})


def test_views_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 12\) and \(5, 12\)"):
        imsvd_loss(logits(4, 12)[0], logits(5, 12)[0], units=3)
