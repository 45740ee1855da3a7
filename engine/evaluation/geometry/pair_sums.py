"""Sums over all pairs of images without a closed form, block by block: angles and the uniformity kernel."""

# N images, D features

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums

BLOCK = 1024  # rows: a block of cosines takes 8 MB
# Angles are summed less a right angle, near which most lie: a small spread then keeps its digits.
_RIGHT_ANGLE = math.pi / 2
_ROUNDING = 1e-13  # of a mean square


@dataclass(frozen=True)
class Angles:
    """Angles of some pairs; mean and standard deviation (divided by the pairs) in radians."""

    pairs: int
    mean: float
    std: float


class PairSums:
    """Sums over every pair of two different images, each once, in float64; of all ranks after `pool`."""

    def __init__(self) -> None:
        kinds = ("all", "positive")
        names = [f"{kind} {what}" for kind in kinds for what in ("pairs", "angle", "square")]
        self._sums = Sums("PairSums", dict.fromkeys([*names, "kernel"], ()))

    @torch.no_grad()
    def update(
        self, first: Tensor, second: Tensor, same_class: Tensor, counted: Tensor | None = None
    ) -> None:
        """Adds the pairs of rows u_i of `first` with rows u_j of `second`.

        Args:
            first: (n, D), second: (m, D) unit vectors, float64.
            same_class: (n, m) bool, the positive pairs.
            counted: (n, m) bool, the pairs that count; None: all.
        """
        cosine = (first @ second.T).clamp(-1, 1)
        if counted is not None:
            cosine, same_class = cosine[counted], same_class[counted]
        angle = cosine.arccos() - _RIGHT_ANGLE
        positive = angle[same_class]
        self._sums.add(
            angle.numel(),
            **{
                f"{kind} {what}": value
                for kind, some in (("all", angle), ("positive", positive))
                for what, value in (
                    ("pairs", angle.new_tensor(some.numel())),
                    ("angle", some.sum()),
                    ("square", some.square().sum()),
                )
            },
            # exp(-2 |u - v|^2) = exp(4 cos - 4)
            kernel=(4 * cosine - 4).exp().sum(),
        )

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._sums.pool(group)

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        return self._sums.state_dict()

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in the sums of other pairs."""
        self._sums.add_state(state)

    def all_angles(self) -> Angles:
        """Of all pairs."""
        return self._angles({"all": 1})

    def positive_angles(self) -> Angles:
        """Of two images of one class."""
        return self._angles({"positive": 1})

    def negative_angles(self) -> Angles:
        """Of two images of two classes."""
        return self._angles({"all": 1, "positive": -1})

    def sensitivity(self) -> float | None:
        """d' = (mean between - mean within) / sqrt((variance between + variance within) / 2), of angles.

        Between two classes and within one. None where one of the two has no pairs, or neither varies.
        Source: Green and Swets (1966), Signal detection theory, for unequal variances the root mean square;
        HyDeS, Table III, "sensitivity index d'".
        """
        return sensitivity_of(self.positive_angles(), self.negative_angles())

    def uniformity(self) -> float:
        """log of the mean of exp(-2 |u_i - u_j|^2) over all pairs: 0 of a point, -4 of all at right angles.

        Source: Wang and Isola (2020), equation 2 with t = 2.
        """
        return float((self._sums["kernel"] / self._sums["all pairs"]).log())

    def _angles(self, signs: dict[str, int]) -> Angles:
        pairs, total, squares = (
            sum(sign * float(self._sums[f"{kind} {what}"]) for kind, sign in signs.items())
            for what in ("pairs", "angle", "square")
        )
        if pairs <= 0:
            return Angles(0, math.nan, math.nan)
        mean, mean_square = total / pairs, squares / pairs
        variance = mean_square - mean**2
        # Less is what rounding leaves where all angles are the same.
        std = math.sqrt(variance) if variance > _ROUNDING * mean_square else 0.0
        return Angles(int(pairs), mean + _RIGHT_ANGLE, std)


def sensitivity_of(within: Angles, between: Angles) -> float | None:
    """d' of the angles of positive and negative pairs; see `PairSums.sensitivity`."""
    if not within.pairs or not between.pairs:
        return None
    spread = math.sqrt((within.std**2 + between.std**2) / 2)
    return (between.mean - within.mean) / spread if spread else None


def add_own_blocks(
    sums: PairSums,
    unit: Tensor,
    labels: Tensor,
    rank: int,
    world_size: int,
    device: torch.device,
    block: int = BLOCK,
) -> None:
    """Adds this rank's share of the block pairs; over all ranks every pair i < j counts once.

    No matrix is larger than block x block.

    Args:
        unit: (N, D) unit vectors, float64, all images on every rank; labels: (N,).
    """
    for first, second in own_blocks(len(unit), block, rank, world_size):
        rows, columns = (unit[start : start + block].to(device) for start in (first, second))
        ours, theirs = (labels[start : start + block].to(device) for start in (first, second))
        upper = (
            torch.ones(len(rows), len(rows), dtype=torch.bool, device=device).triu(1)
            if first == second
            else None
        )
        sums.update(rows, columns, ours[:, None] == theirs, upper)


def own_blocks(count: int, block: int, rank: int, world_size: int) -> Iterator[tuple[int, int]]:
    """First rows of the block pairs (a <= b) of this rank, dealt out in turn, so that shares are even."""
    starts = range(0, count, block)
    pairs = ((first, second) for first in starts for second in starts if first <= second)
    for place, pair in enumerate(pairs):
        if place % world_size == rank:
            yield pair
