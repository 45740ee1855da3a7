"""The yardstick: its loss is the mean cross-entropy of views and images, and a collapse shows."""

import math

import pytest
import torch
from torch import Tensor
from viewmill.methods.families.supervised import Supervised
from viewmill.methods.supervised import supervised_loss

from tests.methods.formulas import supervised_in_float64

LABELS = torch.tensor([2, 0, 3, 3, 1])


def logits(dtype: torch.dtype = torch.float64) -> Tensor:
    return (3 * torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))).to(dtype)


def test_loss_and_gradient_are_those_of_the_formula() -> None:
    z = logits().requires_grad_()
    loss = supervised_loss(z, LABELS)
    loss.backward()
    expected, gradient = supervised_in_float64(logits().numpy(), LABELS.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(z.grad, torch.from_numpy(gradient), rtol=1e-12, atol=1e-14)


def test_half_types_are_summed_in_float32() -> None:
    loss = supervised_loss(logits(torch.bfloat16), LABELS)
    assert loss.dtype == torch.float32
    expected, _ = supervised_in_float64(logits(torch.bfloat16).double().numpy(), LABELS.numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_logits_that_are_all_alike_lose_log_k() -> None:
    assert supervised_loss(torch.zeros(2, 5, 4), LABELS).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize("labels", [LABELS[:4], LABELS[None]])
def test_labels_that_do_not_fit_are_refused_with_both_shapes(labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels \(n,\), got \(3, 5, 4\) and "):
        supervised_loss(logits(), labels)


def test_a_missing_label_is_no_class() -> None:
    with pytest.raises(IndexError, match="-1 is out of bounds"):
        supervised_loss(logits(), torch.tensor([0, 1, -1, 2, 3]))


def test_the_share_of_right_views_is_counted() -> None:
    z = 9 * torch.nn.functional.one_hot(LABELS, 4).float().repeat(3, 1, 1)
    z[1:, 0] = z[1:, 1]  # two of three views of the first image look like the second's class
    found = Supervised(6, 4).diagnostics(z, {}, LABELS)
    assert found["batch_top1"].item() == pytest.approx(13 / 15)


@pytest.mark.parametrize(("scale", "expected"), [(3.0, set()), (0.001, {"uniform"})])
def test_a_classifier_that_tells_nothing_is_complained_of(scale: float, expected: set[str]) -> None:
    method = Supervised(6, 4)
    found = method.diagnostics(scale * logits(torch.float32), {}, LABELS)
    assert set(method.alarms({name: value.item() for name, value in found.items()}, {})) == expected
