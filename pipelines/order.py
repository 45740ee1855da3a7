"""Which sample stands at which position of an epoch: a keyed bijection, computed where it is asked for.

No list of ids exists anywhere: position p of epoch e is a few multiplications away, for a thousand samples
as for a trillion, so a run resumes at any position and on any number of ranks.

Source of the network: Black and Rogaway, "Ciphers with arbitrary finite domains" (2002), the generalised
Feistel cipher and cycle walking.
"""

import math
from typing import Any

import numpy as np
from viewmill.pipelines.orders.positions import check_positions
from viewmill.pipelines.philox import Stream, check_seed, keyed_words

ORDER_VERSION = 1  # part of every data position: a change of the order is a change of this number

_ROUNDS = 8
_MAX_SAMPLES = 2**60
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ONLY = np.zeros(1, dtype=np.uint64)  # the index of keys that exist once an epoch


class SampleOrder:
    """The order of the samples, a different bijection of [0, num_samples) in every epoch.

    Aligned blocks of `block` ids are permuted as units (a block is read from disk in one piece), then the
    positions inside each aligned window of `window` are permuted (so that neighbours on disk part). A last
    partial block stays last and is permuted inside; a last partial window likewise.

    Args:
        num_samples: ids are 0 to num_samples - 1.
        seed: 0 to 2**64 - 1.
        block: ids that stay together; 1 is a full shuffle.
        window: positions that are mixed; 0 or 1 leaves the blocks as they are.

    Raises:
        ValueError: a number is outside its range.
    """

    repeats = False

    def __init__(self, num_samples: int, seed: int, *, block: int = 1, window: int = 0) -> None:
        if not 1 <= num_samples <= _MAX_SAMPLES:
            raise ValueError(f"num_samples must lie in [1, 2**60], got {num_samples}")
        if block < 1 or window < 0:
            raise ValueError(f"block must be >= 1 and window >= 0, got block {block} and window {window}")
        check_seed(seed)
        self.num_samples = num_samples
        self.seed = seed
        self.block = block
        self.window = window

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The sample ids at positions [start, stop) of the epoch, int64 (stop - start,).

        Time and memory grow with stop - start alone.

        Raises:
            ValueError: the positions are not inside the epoch, or the epoch is negative.
        """
        check_positions(start, stop, self.num_samples)
        positions = np.arange(start, stop, dtype=np.uint64)
        if self.window > 1:
            positions = self._mix_windows(epoch, positions)
        return self._shuffle_blocks(epoch, positions).astype(np.int64)

    @property
    def num_ids(self) -> int:
        """Every sample stands at one position."""
        return self.num_samples

    def stand_in(self, sample: int, word: int) -> int:
        """Any sample may replace any other."""
        return word % self.num_samples

    def describe(self) -> dict[str, Any]:
        """Plain data, equal for equal orders alone."""
        return {
            "kind": "samples",
            "num_samples": self.num_samples,
            "seed": self.seed,
            "block": self.block,
            "window": self.window,
        }

    def _mix_windows(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Position -> position of the block order that it reads; each window is closed under it."""
        size = np.uint64(self.window)
        windows = positions // size
        first = windows[
            :1
        ]  # the windows of a range follow each other: keys once a window, not once a position
        distinct = np.arange(first[0], windows[-1] + np.uint64(1)) if len(first) else first
        keys = _round_keys(self.seed, Stream.WINDOWS, epoch, distinct)
        num_full = self.num_samples // self.window
        full = windows < num_full
        mixed = np.empty_like(positions)
        inside = positions - windows * size
        own_keys = keys[:, (windows[full] - first[:1]).astype(np.intp)]
        mixed[full] = windows[full] * size + _permute(inside[full], self.window, own_keys)
        last_keys = _round_keys(self.seed, Stream.LAST_WINDOW, epoch, _ONLY)
        last_size = self.num_samples - num_full * self.window
        mixed[~full] = windows[~full] * size + _permute(inside[~full], last_size, last_keys)
        return mixed

    def _shuffle_blocks(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Position -> id: whole blocks change places, the last partial block is permuted inside."""
        size = np.uint64(self.block)
        num_full = self.num_samples // self.block
        blocks = positions // size
        full = blocks < num_full
        ids = np.empty_like(positions)
        inside = positions - blocks * size
        keys = _round_keys(self.seed, Stream.BLOCKS, epoch, _ONLY)
        ids[full] = _permute(blocks[full], num_full, keys) * size + inside[full]
        last_keys = _round_keys(self.seed, Stream.LAST_BLOCK, epoch, _ONLY)
        last_size = self.num_samples - num_full * self.block
        ids[~full] = num_full * self.block + _permute(inside[~full], last_size, last_keys)
        return ids


def _round_keys(seed: int, stream: Stream, epoch: int, indices: np.ndarray) -> np.ndarray:
    """One 64-bit key for every round and index: (_ROUNDS, len(indices)) uint64."""
    lanes = np.arange(_ROUNDS // 2)[:, None]
    words = keyed_words(seed, stream, epoch, indices[None, :], lanes)  # (4, _ROUNDS / 2, len)
    keys = words[0::2] << np.uint64(32) | words[1::2]
    return keys.reshape(_ROUNDS, len(indices))


def _permute(numbers: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """A keyed bijection of [0, size): numbers (m,) uint64 below size, keys (_ROUNDS, m or 1)."""
    if len(numbers) == 0:
        return numbers
    # The smallest rectangle over `size` is less than one row too large, so hardly a number leaves the range.
    rows = math.isqrt(size - 1) + 1
    columns = -(-size // rows)
    moved = _feistel(numbers, rows, columns, keys)
    # Cycle walking: a number that left the range goes on until it is back; every cycle leads back.
    while (outside := np.flatnonzero(moved >= size)).size:
        own_keys = keys if keys.shape[1] == 1 else keys[:, outside]
        moved[outside] = _feistel(moved[outside], rows, columns, own_keys)
    return moved


def _feistel(numbers: np.ndarray, rows: int, columns: int, keys: np.ndarray) -> np.ndarray:
    """A keyed bijection of the cells of a rectangle: a round moves one coordinate by a hash of the other."""
    sides = np.uint64(rows), np.uint64(columns)
    row, column = np.divmod(numbers, sides[1])
    for round_keys in keys.reshape(_ROUNDS // 2, 2, -1):
        row = (row + _hash_below(column, sides[0], round_keys[0])) % sides[0]
        column = (column + _hash_below(row, sides[1], round_keys[1])) % sides[1]
    return row * sides[1] + column


def _hash_below(numbers: np.ndarray, bound: np.uint64, key: np.ndarray) -> np.ndarray:
    """A keyed hash in [0, bound): SplitMix64's output function (Steele et al., 2014) of key + number."""
    bits = numbers * _GOLDEN + key
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return ((bits >> np.uint64(32)) * bound) >> np.uint64(32)
