"""An order over several data sets: every batch holds them in the stated proportion."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import check_positions
from viewmill.pipelines.philox import Stream, keyed_words

MIXTURE_VERSION = 1  # a change of this order is a change of this number

_MAX_PERIOD = 1 << 16


class Part(NamedTuple):
    """One data set of a mixture: the order of its samples, and its share of the positions."""

    order: Order
    share: int | float | Fraction | str


class MixtureOrder:
    """Positions handed out to several data sets in proportion, so that every prefix of the run is within one
    sample of it.

    The position p of epoch e is the number n = e num_samples + p of the run. A table of one period (the sum
    of the shares, as the smallest whole numbers) says which part n belongs to and how many of that part came
    before: its own place, by which its own order is asked. So each part goes through its own epochs, one
    after the other, and wraps around on its own: none of its samples comes k + 1 times before all of them
    came k times. The ids are those of the joined data set (`JoinedDataset`): part after part.

    Memory: 8 bytes x parts x period. Time: O(stop - start), whatever the position.

    Args:
        parts: at least one; shares above 0. A decimal is taken as it is written: 0.7 is seven tenths.
        num_samples: positions of an epoch, after which a new one is counted; None: as many as the parts have
            together.

    Raises:
        ValueError: no parts, a share that is no number above 0, or shares whose smallest whole numbers sum to
            more than 65,536.
    """

    repeats = True

    def __init__(self, parts: Sequence[Part], *, num_samples: int | None = None) -> None:
        self.parts = tuple(Part(*part) for part in parts)
        self.shares = whole_shares([part.share for part in self.parts])
        together = sum(part.order.num_samples for part in self.parts)
        self.num_samples = together if num_samples is None else num_samples
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be >= 1, got {num_samples}")
        sizes = [part.order.num_ids for part in self.parts]
        self._offsets = [sum(sizes[:part]) for part in range(len(sizes))]
        self.num_ids = sum(sizes)
        self._part_of = fair_schedule(self.shares)  # (period,)
        is_of = self._part_of == np.arange(len(self.parts))[:, None]
        self._before = np.concatenate([np.zeros((len(sizes), 1), np.int64), is_of.cumsum(axis=1)], axis=1)

    @property
    def period(self) -> int:
        """Positions after which the parts come in the same turn again."""
        return len(self._part_of)

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The ids at positions [start, stop) of the epoch, see `Order`."""
        check_positions(start, stop, self.num_samples)
        if epoch < 0:
            raise ValueError(f"epoch must be >= 0, got {epoch}")
        first = epoch * self.num_samples + start
        part_of = self._part_of[(first % self.period + np.arange(stop - start)) % self.period]
        ids = np.empty(stop - start, dtype=np.int64)
        for number, (order, offset) in enumerate(zip(self._orders, self._offsets, strict=True)):
            came, comes = (self.count(number, where) for where in (first, first + stop - start))
            ids[part_of == number] = offset + stream(order, came, comes)
        return ids

    def count(self, part: int, positions: int) -> int:
        """How many of the run's first `positions` samples belong to this part."""
        periods, rest = divmod(positions, self.period)
        return periods * self.shares[part] + int(self._before[part, rest])

    def stand_in(self, sample: int, word: int) -> int:
        """A sample is replaced by one of its own part, so that the proportion stays."""
        part = int(np.searchsorted(self._offsets, sample, side="right")) - 1
        return self._offsets[part] + self._orders[part].stand_in(sample - self._offsets[part], word)

    def describe(self) -> dict[str, Any]:
        """Plain data, equal for equal orders alone."""
        return {
            "kind": "mixture",
            "version": MIXTURE_VERSION,
            "num_samples": self.num_samples,
            "shares": list(self.shares),
            "parts": [order.describe() for order in self._orders],
        }

    @property
    def _orders(self) -> list[Order]:
        return [part.order for part in self.parts]


def stream(order: Order, start: int, stop: int) -> np.ndarray:
    """The ids [start, stop) of an order's epochs laid end to end."""
    pieces = [np.empty(0, dtype=np.int64)]
    while start < stop:
        epoch, position = divmod(start, order.num_samples)
        end = min(position + stop - start, order.num_samples)
        pieces.append(order.ids(epoch, position, end))
        start += end - position
    return np.concatenate(pieces)


def seed_of_part(seed: int, part: int) -> int:
    """A seed for the order of a part, from that of the run: no two parts share one."""
    high, low = (int(word) for word in keyed_words(seed, Stream.PARTS, 0, part, 0)[:2])
    return high << 32 | low


def whole_shares(shares: Sequence[int | float | Fraction | str]) -> tuple[int, ...]:
    """The smallest whole numbers in the same proportion; a float counts as its shortest decimal.

    Raises:
        ValueError: see `MixtureOrder`.
    """
    exact = []
    for share in shares:
        try:
            exact.append(Fraction(str(share)))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"a share is a number above 0, got {share!r}") from None
        if exact[-1] <= 0:
            raise ValueError(f"a share is a number above 0, got {share!r}; leave the data set out")
    if not exact:
        raise ValueError("a mixture needs at least one data set, got none")
    scale = math.lcm(*(share.denominator for share in exact))
    numbers = [int(share * scale) for share in exact]
    common = math.gcd(*numbers)
    whole = tuple(number // common for number in numbers)
    if sum(whole) > _MAX_PERIOD:
        raise ValueError(
            f"the shares {', '.join(map(str, shares))} are {':'.join(map(str, whole))}, whose sum is above "
            f"{_MAX_PERIOD}; round them, for example to whole percents"
        )
    return whole


def fair_schedule(shares: Sequence[int]) -> np.ndarray:
    """Which part each position of a period belongs to, (sum of shares,) int64: every prefix is in proportion.

    After t positions a part with share w of T has had t w / T of them within 1 - 1 / (2n - 2), n parts.

    Source: Tijdeman, "The chairman assignment problem" (1980): at each position, of the parts that are owed
    at least 1 / (2n - 2), the one whose debt would soonest be too large.
    """
    total, slack = sum(shares), max(2 * len(shares) - 2, 1)
    had = [0] * len(shares)
    schedule = np.zeros(total, dtype=np.int64)
    if len(shares) == 1:
        return schedule
    for position in range(total):
        chosen, latest = -1, 0
        for part, share in enumerate(shares):
            owed = slack * (share * (position + 1) - total * had[part])  # in units of 1 / (slack total)
            if owed < total:
                continue
            deadline = (slack - 1) * total - owed  # over the share: compared without dividing
            if chosen < 0 or deadline * shares[chosen] < latest * share:
                chosen, latest = part, deadline
        had[chosen] += 1
        schedule[position] = chosen
    return schedule
