"""IMSVD's theorem: one-hot, uniform, independent variables make the loss least, and descent finds them.

Descent leaves each count of images off by a few, so what it reaches is off by their share of N.
"""

import math

import pytest
import torch
from torch import Tensor
from viewmill.methods.imsvd import ImsvdLoss, imsvd_loss, soft_variables

IMAGES, VARIABLES, UNITS = 256, 3, 2


def descend(seed: int, steps: int = 150, rate: float = 0.1) -> tuple[Tensor, Tensor, ImsvdLoss]:
    """(q', q'', loss) after Adam on free logits of two views."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, IMAGES, VARIABLES * UNITS)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    search = torch.optim.Adam([logits], lr=rate)
    for _ in range(steps):
        search.zero_grad()
        result = imsvd_loss(logits[0], logits[1], units=UNITS)
        result.loss.backward()
        search.step()
    q = soft_variables(logits.detach().flatten(0, 1), UNITS).view(2, IMAGES, VARIABLES, UNITS)
    return q[0], q[1], imsvd_loss(logits[0].detach(), logits[1].detach(), units=UNITS)


@pytest.fixture(scope="module")
def optimum() -> tuple[Tensor, Tensor, ImsvdLoss]:
    return descend(seed=0)


def test_descent_reaches_the_least_value(optimum: tuple[Tensor, Tensor, ImsvdLoss]) -> None:
    # TI 0, DE/M = -log U, OE/(M(M-1)) = -2 log U.
    loss = optimum[2].loss.item()
    print(f"loss {loss:.5f}, least {-3 * math.log(UNITS):.5f}")
    assert -1e-6 <= loss + 3 * math.log(UNITS) < 1e-2


def test_variables_are_one_hot_and_equal_in_both_views(optimum: tuple[Tensor, Tensor, ImsvdLoss]) -> None:
    q1, q2, _ = optimum
    print(f"least of the largest probabilities: {q1.amax(dim=2).min():.4f}")
    assert q1.amax(dim=2).min() > 0.98
    torch.testing.assert_close(q1, q2, rtol=0, atol=0.02)


def test_every_value_is_taken_equally_often(optimum: tuple[Tensor, Tensor, ImsvdLoss]) -> None:
    marginals = optimum[0].mean(dim=0)
    torch.testing.assert_close(marginals, torch.full_like(marginals, 1 / UNITS), rtol=0, atol=0.04)


def test_no_variable_tells_of_another(optimum: tuple[Tensor, Tensor, ImsvdLoss]) -> None:
    q, largest = optimum[0], 0.0
    for first in range(VARIABLES):
        for second in range(first):
            joint = q[:, first].T @ q[:, second] / IMAGES
            independent = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0)
            largest = max(largest, (joint * (joint / independent).log()).sum().item())
    print(f"largest mutual information of two variables: {largest:.2e} nats of {math.log(UNITS):.3f}")
    assert largest < 1e-2
