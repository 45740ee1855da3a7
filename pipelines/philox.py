"""Philox4x32-10: random words as a pure function of a key and a counter, for whole arrays at once.

Everything random in the data path comes from here. A word is named by (seed, stream, epoch, index, lane), so
nothing is consumed in an order, and any rank or worker can ask for any word.

Source: Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), section 3.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike

_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIER0, _MULTIPLIER2 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85

MAX_SEED = 2**64 - 1
MAX_EPOCH = 2**32 - 1
_LANE_BITS = 28


class Stream(IntEnum):
    """What words are drawn for; two streams share no word, whatever else of their names is equal."""

    VIEWS = 0
    BLOCKS = 1
    LAST_BLOCK = 2
    WINDOWS = 3
    LAST_WINDOW = 4
    SUBSTITUTES = 5
    CAPS = 6
    WEIGHTS = 7
    PARTS = 8
    PERMUTATIONS = 9
    LOW_SHOT = 10
    RESAMPLES = 11


def philox(key: tuple[int, int], counters: np.ndarray) -> np.ndarray:
    """Ten rounds of Philox4x32 on every counter.

    Args:
        key: two numbers below 2**32.
        counters: (4, ...) uint64, each value below 2**32.

    Returns:
        (4, ...) uint64, four random words below 2**32 for each counter.
    """
    x0, x1, x2, x3 = counters.reshape(4, -1).copy()
    product0, product2 = np.empty_like(x0), np.empty_like(x2)
    for round_ in range(_ROUNDS):
        key0, key1 = (
            np.uint64((part + round_ * step) & 0xFFFFFFFF) for part, step in zip(key, _KEY_STEPS, strict=True)
        )
        # In place, and the flat arrays one by one: twice as fast as expressions on (4, ...).
        np.multiply(x0, _MULTIPLIER0, out=product0)
        np.multiply(x2, _MULTIPLIER2, out=product2)
        np.right_shift(product2, _HALF, out=x0)
        np.right_shift(product0, _HALF, out=x2)
        x0 ^= x1
        x0 ^= key0
        x2 ^= x3
        x2 ^= key1
        np.bitwise_and(product2, _LOW, out=x1)
        np.bitwise_and(product0, _LOW, out=x3)
    return np.stack([x0, x1, x2, x3]).reshape(counters.shape)


def keyed_words(seed: int, stream: Stream, epoch: int, index: ArrayLike, lane: ArrayLike) -> np.ndarray:
    """Four random words for every (index, lane), which broadcast against each other.

    Args:
        seed: 0 to 2**64 - 1; it is the key.
        stream: what the words are for.
        epoch: 0 to 2**32 - 1.
        index: what is drawn for (a sample id, a window), each 0 to 2**63 - 1.
        lane: which draw of it, each 0 to 2**28 - 1.

    Returns:
        (4, ...) uint64, each below 2**32.

    Raises:
        ValueError: the seed or the epoch is outside its range.
    """
    check_seed(seed)
    if not 0 <= epoch <= MAX_EPOCH:
        raise ValueError(f"epoch must lie in [0, {MAX_EPOCH}], got {epoch}")
    index, lane = np.asarray(index, dtype=np.uint64), np.asarray(lane, dtype=np.uint64)
    counters = np.empty((4, *np.broadcast_shapes(index.shape, lane.shape)), dtype=np.uint64)
    # Seed and epoch have words of their own: seed 0 epoch 1 is not seed 1 epoch 0.
    counters[0] = index & _LOW
    counters[1] = index >> _HALF
    counters[2] = epoch
    counters[3] = lane | np.uint64(int(stream) << _LANE_BITS)
    return philox((seed & 0xFFFFFFFF, seed >> 32), counters)


def check_seed(seed: int) -> None:
    """Refuse a seed that does not fit the key.

    Raises:
        ValueError: the seed is outside [0, 2**64).
    """
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed must lie in [0, {MAX_SEED}], got {seed}")


def uniform(words: np.ndarray) -> np.ndarray:
    """Words as float64 inside (0, 1), the middles of 2**32 equal steps: exact, so equal on every machine."""
    return (words.astype(np.float64) + 0.5) * 2.0**-32


def below(words: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """Words as whole numbers in [0, bound), bound (broadcast) at most 2**32; int64.

    The bias is below bound / 2**32, which for a pixel position is nothing one could count.
    """
    return ((words * bound.astype(np.uint64)) >> _HALF).astype(np.int64)
