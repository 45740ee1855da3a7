"""Which targets the regularised K-L divergence asks for, and how near the prior's and the centre's come."""

import math

import pytest
import torch
from torch import Tensor
from viewmill.methods.distill import teacher_targets

IMAGES, CLUSTERS = 16, 4


def logits(n: int = IMAGES, clusters: int = CLUSTERS, seed: int = 0) -> Tensor:
    """Of a teacher that prefers some clusters."""
    generator = torch.Generator().manual_seed(seed)
    preferred = torch.linspace(-2, 2, clusters)
    return torch.randn(n, clusters, generator=generator, dtype=torch.float64) + preferred


def regularised_divergence(q: Tensor, t: Tensor) -> Tensor:
    """mean_i KL(q_i || t_i) plus the negative entropy of the mean assignment; convex in q."""
    mean = q.mean(dim=0)
    return (q * (q / t).log()).sum(dim=1).mean() + (mean * mean.log()).sum()


def minimiser(t: Tensor) -> Tensor:
    """Of the divergence over free targets, by L-BFGS from the uniform ones."""
    free = torch.zeros_like(t).requires_grad_()
    search = torch.optim.LBFGS(
        [free], max_iter=150, tolerance_grad=1e-9, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def descend() -> Tensor:
        search.zero_grad()
        value = regularised_divergence(free.softmax(dim=1), t)
        value.backward()
        return value

    search.step(descend)
    return free.detach().softmax(dim=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_minimiser_is_the_self_consistent_teacher(temperature: float) -> None:
    x = logits()
    t = (x / temperature).softmax(dim=1)
    found = minimiser(t)
    consistent, one_step = (
        teacher_targets(x, temperature=temperature, normalization="prior", prior_iterations=iterations)
        for iterations in (200, 1)
    )
    torch.testing.assert_close(found, consistent, rtol=0, atol=1e-5)
    # The paper's form takes the mean of t for the mean of q: one step of the way.
    least, by_one, by_none = (regularised_divergence(q, t).item() for q in (consistent, one_step, t))
    print(
        f"temperature {temperature}: one step is {(one_step - consistent).abs().max():.3f} away at most, "
        f"{by_one - least:.4f} nats above the least; no normalisation {by_none - least:.4f}"
    )
    # It goes too far: where the teacher is sure of little, further than none at all falls short.
    assert min(by_one, by_none) - least > 1e-6


def test_prior_and_centre_meet_faster_than_both_meet_the_uniform() -> None:
    # Jensen's gap of equation 23 is of second order in 1/temperature, the distance to 1/K of first.
    x = logits(n=64, clusters=8)
    gaps, distances = [], []
    for temperature in (10.0, 100.0, 1000.0):
        by_prior, by_center = (
            teacher_targets(x, temperature=temperature, normalization=name) for name in ("prior", "center")
        )
        gaps.append((by_prior - by_center).abs().max().item() * temperature**2)
        distances.append((by_prior - 1 / 8).abs().max().item() * temperature)
    print(f"max|q_prior - q_centre| tau^2: {gaps}; max|q - 1/K| tau: {distances}")
    assert max(gaps) < 2 * min(gaps)
    assert min(distances) > 0.2


def test_the_least_divergence_is_below_that_of_any_other_targets() -> None:
    x = logits()
    t = x.softmax(dim=1)
    least = regularised_divergence(
        teacher_targets(x, temperature=1.0, normalization="prior", prior_iterations=200), t
    ).item()
    for seed in range(20):
        other = logits(seed=seed + 1).softmax(dim=1)
        assert regularised_divergence(other, t).item() > least
    assert least > -math.log(CLUSTERS)  # the divergence is >= 0 and the mean's entropy at most log K
