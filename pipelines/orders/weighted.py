"""An order in which some samples come more often than others: so many times an epoch as their weight says."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.subset import hash_of_numbers
from viewmill.pipelines.philox import Stream, check_seed, keyed_words

WEIGHTED_VERSION = 1  # a change of this order is a change of this number

_MAX_TOTAL_BITS = 60
_WEIGHT_BITS = 40  # of the largest weight, where the number of samples leaves room
_MAX_LENGTH = 2**30
_GOLDEN = 0.6180339887498949


class WeightedOrder:
    """An epoch of `length` positions in which sample i stands floor(c_i) or ceil(c_i) times, c_i its share.

    c_i = length w_i / sum w. Systematic sampling: the weights are laid end to end, in id order, and read at
    `length` equal steps from a start that differs by epoch. For a start drawn by the seed the expected count
    is c_i exactly. The starts of following epochs are a golden-ratio sequence, so that over E epochs a count
    stays far nearer to E c_i than chance would bring it. The places so chosen are then shuffled as a
    `SampleOrder` of `length` samples, in which `block` keeps neighbours on disk (and copies) together.

    Memory: 8 bytes a sample of the data set. Time of an id: O(log num_ids), a search.

    Source of the rounding: Madow and Madow, "On the theory of systematic sampling, I" (1944).

    Args:
        weights: (num_ids,) >= 0, one a sample; whole numbers are kept, others rounded to at most 40 bits of
            the largest, an error of 1e-12 of it (1e-9 at a billion samples).
        length: positions of an epoch, 1 to 2**30.
        seed: 0 to 2**64 - 1.
        block, window: see `SampleOrder`.

    Raises:
        ValueError: a weight that is negative, not finite or too small to be kept, no weight above 0, or a
            number outside its range.
    """

    repeats = True

    def __init__(
        self, weights: ArrayLike, length: int, seed: int, *, block: int = 1, window: int = 0
    ) -> None:
        check_seed(seed)
        if not 1 <= length <= _MAX_LENGTH:
            raise ValueError(f"the length of an epoch must lie in [1, 2**30], got {length}")
        whole = whole_weights(weights)
        self.seed = seed
        self.num_ids = len(whole)
        self._ends = np.cumsum(whole)  # where the weight of a sample ends on the line
        self._total = int(self._ends[-1])
        self._order = SampleOrder(length, seed, block=block, window=window)
        self._digest = hash_of_numbers(whole)
        self._first = self._random_start()
        self._step = _step_of_golden_ratio(self._total)

    @property
    def num_samples(self) -> int:
        """Positions of an epoch."""
        return self._order.num_samples

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The ids at positions [start, stop) of the epoch, see `Order`."""
        places = self._order.ids(epoch, start, stop)
        length, offset = self.num_samples, (self._first + epoch * self._step) % self._total
        # floor((place total + offset) / length) within 64 bits: place and rest are < 2**30, offset < 2**60.
        steps, rest = divmod(self._total, length)
        points = places * steps + (places * rest + offset) // length
        return np.searchsorted(self._ends, points, side="right").astype(np.int64)

    def stand_in(self, sample: int, word: int) -> int:
        """Any sample may replace any other, as often as its weight says."""
        return int(np.searchsorted(self._ends, word % self._total, side="right"))

    def describe(self) -> dict[str, Any]:
        """Plain data, equal for equal orders alone."""
        return {
            "kind": "weighted",
            "version": WEIGHTED_VERSION,
            "num_ids": self.num_ids,
            "weights_sha256": self._digest,
            "of": self._order.describe(),
        }

    def _random_start(self) -> int:
        """A whole number in [0, total); the bias is below total / 2**64."""
        high, low = (int(word) for word in keyed_words(self.seed, Stream.WEIGHTS, 0, 0, 0)[:2])
        return ((high << 32 | low) * self._total) >> 64


def whole_weights(weights: ArrayLike) -> np.ndarray:
    """The weights as whole numbers whose sum is below 2**60, bit-identical on every machine: (n,) int64.

    Raises:
        ValueError: see `WeightedOrder`.
    """
    given = np.asarray(weights)
    if given.ndim != 1 or given.dtype.kind not in "iuf" or not given.size:
        raise ValueError(f"weights are one list of numbers, got {given.dtype} of shape {given.shape}")
    bad = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
    if bad.size:
        raise ValueError(f"the weight of id {bad[0]} is {given[bad[0]]}; a weight is finite and >= 0")
    largest = given.max()
    if largest == 0:
        raise ValueError(f"all {given.size} weights are 0: no sample is left")
    room = _MAX_TOTAL_BITS - math.ceil(math.log2(given.size + 1))
    if given.dtype.kind in "iu" and int(largest) < 1 << room:
        return given.astype(np.int64)
    # A division by the largest, then by a power of two, rounds the same everywhere; a sum might not.
    scale = 2.0 ** min(room, _WEIGHT_BITS)
    whole = np.rint(given.astype(np.float64) / float(largest) * scale).astype(np.int64)
    lost = np.flatnonzero((whole == 0) & (given > 0))
    if lost.size:
        raise ValueError(
            f"the weight of id {lost[0]} is {given[lost[0]]}, too small beside the largest, {largest}; "
            "set it to 0 to leave the sample out"
        )
    return whole


def weights_of_classes(labels: np.ndarray, class_weights: ArrayLike) -> np.ndarray:
    """A weight a sample so that class c as a whole is drawn in proportion to class_weights[c]: (n,) float64.

    Ones make every class equally frequent, whatever its size. Samples without a class (label -1) get 0.

    Raises:
        ValueError: a label for which there is no weight, or a class with a weight and without samples.
    """
    shares = np.asarray(class_weights, dtype=np.float64)
    known = labels[labels >= 0]
    if known.size and int(known.max()) >= len(shares):
        raise ValueError(f"{len(shares)} class weights, but a sample has class {int(known.max())}")
    counts = np.bincount(known, minlength=len(shares))
    empty = np.flatnonzero((counts == 0) & (shares > 0))
    if empty.size:
        raise ValueError(f"class {empty[0]} has the weight {shares[empty[0]]} and no sample; set it to 0")
    each = np.append(shares / np.maximum(counts, 1), 0.0)  # the last one is of label -1
    return each[labels]


def _step_of_golden_ratio(total: int) -> int:
    """The next number from total / 1.618 on that shares no divisor with it: every start is visited."""
    step = max(1, round(total * _GOLDEN))
    while math.gcd(step, total) != 1:
        step += 1
    return step
