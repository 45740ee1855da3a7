"""Clustering distillation in one process: what the equations promise, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from viewmill.methods.distill import distillation_loss, teacher_targets
from viewmill.methods.priors import PriorAccumulator

from tests.methods.formulas import distillation_in_float64, targets_in_float64


def logits(n: int = 64, clusters: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, clusters, generator=generator, dtype=torch.float64) + torch.linspace(
        -2, 2, clusters
    )


def test_dividing_by_the_prior_makes_clusters_more_even() -> None:
    plain = teacher_targets(logits(), temperature=1.0, normalization="none").mean(dim=0)
    even = teacher_targets(logits(), temperature=1.0, normalization="prior").mean(dim=0)
    assert even.max() - even.min() < 0.2 * (plain.max() - plain.min())


def test_more_iterations_of_the_prior_reach_the_self_consistent_targets() -> None:
    # The minimiser of the regularised K-L divergence: q_ik ~ t_ik / Q_k with Q the mean of q itself.
    x = logits()
    q = teacher_targets(x, temperature=1.0, normalization="prior", prior_iterations=60)
    t, own_mean = x.softmax(dim=1), q.mean(dim=0)
    expected = t / own_mean
    torch.testing.assert_close(q, expected / expected.sum(dim=1, keepdim=True), rtol=1e-8, atol=1e-12)


def test_an_empty_cluster_gets_a_finite_boost() -> None:
    x = logits(n=4)
    x[:, 3] = -1e6
    targets = teacher_targets(x, temperature=0.1, normalization="prior")
    assert torch.isfinite(targets).all()
    accumulator = PriorAccumulator(8)
    accumulator.update(x, 0.1)
    assert accumulator.log_prior()[3].item() == pytest.approx(math.log(1 / (4 * 8)), rel=1e-12)


def test_both_kinds_have_the_same_gradient_and_the_kl_of_equals_is_zero() -> None:
    gradients = []
    targets = torch.stack([logits(seed=s).softmax(dim=1) for s in (1, 2)])
    for kind in ("kl", "cross_entropy"):
        student = torch.stack([logits(seed=s) for s in (3, 4, 5)]).requires_grad_()
        distillation_loss(student, targets, temperature=0.5, kind=kind).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-15)
    same = logits().expand(2, -1, -1)
    assert distillation_loss(same, same.softmax(dim=2), temperature=1.0).item() == pytest.approx(0, abs=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    student = torch.stack([logits(n=3, seed=s) for s in (3, 4, 5)]).requires_grad_()
    targets = torch.stack([logits(n=3, seed=s).softmax(dim=1) for s in (1, 2)])
    assert torch.autograd.gradcheck(lambda z: distillation_loss(z, targets, temperature=0.7), (student,))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    images=st.integers(1, 6), clusters=st.integers(2, 6), views=st.integers(1, 4), teachers=st.integers(1, 3),
    normalization=st.sampled_from(["prior", "center", "sinkhorn", "none"]),
)  # fmt: skip
def test_targets_loss_and_gradient_are_those_of_the_formula_for_any_shape(
    images: int, clusters: int, views: int, teachers: int, normalization: str
) -> None:
    if views * teachers < 2:
        teachers = 2
    student = torch.stack([logits(images, clusters, seed) for seed in range(views)]).requires_grad_()
    raw = [logits(images, clusters, 10 + seed) for seed in range(teachers)]
    targets = [teacher_targets(x, temperature=0.5, normalization=normalization) for x in raw]
    for x, found in zip(raw, targets, strict=True):
        np.testing.assert_allclose(found, targets_in_float64(x.numpy(), 0.5, normalization), rtol=1e-10)
    loss = distillation_loss(student, torch.stack(targets), temperature=0.7)
    loss.backward()
    expected, gradient = distillation_in_float64(
        student.detach().numpy(), torch.stack(targets).numpy(), 0.7, "kl"
    )
    assert loss.item() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(student.grad, gradient, rtol=1e-10, atol=1e-13)


def test_half_precision_is_summed_in_float32() -> None:
    student = torch.stack([logits(seed=s) for s in (3, 4)]).bfloat16().requires_grad_()
    targets = torch.stack([logits(seed=s).softmax(dim=1) for s in (1, 2)])
    loss = distillation_loss(student, targets, temperature=0.1)
    assert loss.dtype == torch.float32
    expected = distillation_loss(student.double(), targets, temperature=0.1)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_interrupted_pass_goes_on_from_its_state() -> None:
    whole, begun = PriorAccumulator(8), PriorAccumulator(8)
    whole.update(logits(), 0.2)
    begun.update(logits()[:20], 0.2)
    resumed = PriorAccumulator(8)
    resumed.load_state_dict(begun.state_dict())
    resumed.update(logits()[20:], 0.2)
    torch.testing.assert_close(resumed.log_prior(), whole.log_prior(), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="of 9 clusters has 'sums' of 19 numbers, got \\(17,\\)"):
        PriorAccumulator(9).load_state_dict(begun.state_dict())


def test_the_standard_error_is_that_of_samples_drawn_again_and_again() -> None:
    generator = torch.Generator().manual_seed(0)
    means, errors = [], []
    for _ in range(400):
        accumulator = PriorAccumulator(3)
        accumulator.update(torch.randn(50, 3, generator=generator), 0.5)
        means.append(accumulator.log_prior().exp())
        errors.append(accumulator.standard_error())
    torch.testing.assert_close(
        torch.stack(errors).mean(dim=0), torch.stack(means).std(dim=0), rtol=0.1, atol=0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "priors"}, "'priors' is not one of prior, center"),
        ({"normalization": "none", "log_prior": torch.zeros(8)}, "log_prior is for normalization 'prior'"),
        ({"normalization": "center", "center": torch.zeros(7)}, "center must be \\(8,\\), got \\(7,\\)"),
        ({"normalization": "prior", "temperature": 0.0}, "need temperature > 0"),
        ({"normalization": "prior", "prior_iterations": 0}, "prior_iterations >= 1"),
    ],
)
def test_wrong_options_of_targets_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        teacher_targets(logits(), **{"temperature": 1.0, **options})


def test_views_that_make_no_pair_and_logits_that_are_not_finite_are_refused() -> None:
    one = logits()[None]
    with pytest.raises(ValueError, match="no pair of different views"):
        distillation_loss(one, one.softmax(dim=2), temperature=1.0)
    with pytest.raises(ValueError, match="not finite"):
        PriorAccumulator(8).update(torch.full((1, 8), torch.nan), 1.0)
    with pytest.raises(ValueError, match="of no samples"):
        PriorAccumulator(8).log_prior()
