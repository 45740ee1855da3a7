"""LARS against its formula in float64, against timm's, and cut into shares as ZeRO cuts it."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from viewmill.engine.lars import LARS, Share, Stretch, trust_ratios

SHAPES = [(4, 3, 3, 3), (7, 5), (1, 1)]


def drawn(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=source, dtype=dtype) for shape in SHAPES]


def moved(optimizer: Any, weights: list[nn.Parameter], steps: int) -> list[Tensor]:
    for step in range(steps):
        for weight, gradient in zip(weights, drawn(100 + step, weights[0].dtype), strict=True):
            weight.grad = gradient.reshape(weight.shape)
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("adapts", [True, False])
def test_steps_are_the_formulas(momentum: float, adapts: bool) -> None:
    weights = [nn.Parameter(weight) for weight in drawn(0)]
    expected = [weight.detach().clone() for weight in weights]
    group = {"params": weights, "weight_decay": 0.1, "adapts": adapts}
    found = moved(LARS([group], lr=0.5, momentum=momentum, trust=0.02), weights, 3)
    for place, weight in enumerate(expected):
        velocity = torch.zeros_like(weight)
        for step in range(3):
            update = drawn(100 + step)[place] + 0.1 * weight
            length, size = (math.sqrt(float((one**2).sum())) for one in (weight, update))
            factor = 0.02 * length / size if adapts else 1.0
            velocity = momentum * velocity + factor * update
            weight -= 0.5 * velocity
        torch.testing.assert_close(found[place], weight, rtol=1e-12, atol=1e-12)


def test_without_decay_it_is_timms() -> None:
    ours, theirs = ([nn.Parameter(weight) for weight in drawn(1)] for _ in range(2))
    group = {"params": ours, "weight_decay": 0.0, "adapts": True}
    peer = timm.optim.Lars(theirs, lr=0.3, momentum=0.9, trust_coeff=0.01, eps=0.0, always_adapt=True)
    found = moved(LARS([group], lr=0.3, momentum=0.9, trust=0.01), ours, 4)
    for left, right in zip(found, moved(peer, theirs, 4), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_a_norm_of_zero_leaves_the_update_as_it_is() -> None:
    assert trust_ratios(torch.tensor([[0.0, 2.0, 3.0], [1.0, 0.0, 6.0]]), 0.1).tolist() == pytest.approx(
        [1.0, 1.0, 0.05]
    )


def test_an_overflow_leaves_everything_as_it_is() -> None:
    weights = [nn.Parameter(weight) for weight in drawn(2)]
    before = [weight.detach().clone() for weight in weights]
    optimizer = LARS(
        [{"params": weights, "weight_decay": 0.1, "adapts": True}], lr=1.0, momentum=0.9, trust=0.1
    )
    optimizer.overflow = True
    assert all(map(torch.equal, moved(optimizer, weights, 1), before))
    assert not optimizer.state


def flat_of(tensors: list[Tensor], padding: int) -> Tensor:
    return torch.cat([*(one.reshape(-1) for one in tensors), torch.zeros(padding, dtype=tensors[0].dtype)])


class Ranks:
    """Threads that sum over each other, as processes would."""

    def __init__(self, number: int) -> None:
        self._barrier, self._given = Barrier(number), [torch.empty(0)] * number

    def sum(self, rank: int, values: Tensor) -> None:
        self._given[rank] = values.clone()
        self._barrier.wait(timeout=60)
        values.copy_(torch.stack(self._given).sum(0))
        self._barrier.wait(timeout=60)


@pytest.mark.parametrize(
    "edges", [(0, 72, 144), (0, 5, 144), (0, 108, 144), (0, 144, 150), (0, 36, 72, 108, 160)]
)
def test_shares_step_as_the_whole_wherever_they_are_cut(edges: tuple[int, ...]) -> None:
    padding, group = edges[-1] - 144, {"weight_decay": 0.1, "adapts": True}
    settings = {"lr": 0.5, "momentum": 0.9, "trust": 0.02}
    ranks = Ranks(len(edges) - 1)

    def stepped(rank: int) -> Tensor:
        mine = slice(*edges[rank : rank + 2])
        flat = nn.Parameter(flat_of(drawn(3), padding)[mine].clone())
        optimizer = LARS([group | {"params": [flat]}], **settings)
        optimizer.divide({flat: share_of(mine.start, mine.stop)}, partial(ranks.sum, rank))
        for step in range(3):
            flat.grad = flat_of(drawn(100 + step), padding)[mine].clone()
            optimizer.step()
        return flat.detach()

    with ThreadPoolExecutor(len(edges) - 1) as pool:
        found = torch.cat(list(pool.map(stepped, range(len(edges) - 1))))
    whole = [nn.Parameter(weight) for weight in drawn(3)]
    expected = flat_of(moved(LARS([group | {"params": whole}], **settings), whole, 3), padding)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def share_of(low: int, high: int) -> Share:
    """What the numbers from `low` to `high` of the flat group are."""
    ends = [108, 143, 144]
    starts = [0, *ends[:-1]]
    pieces = [
        Stretch(number, max(first, low) - low, min(last, high) - max(first, low))
        for number, (first, last) in enumerate(zip(starts, ends, strict=True))
        if max(first, low) < min(last, high)
    ]
    return Share(len(SHAPES), tuple(pieces))
