"""How many pieces of disk a batch is: what locality of the order saves in reads."""

from dataclasses import dataclass

import numpy as np
from viewmill.pipelines.orders.interface import Order

# Between the images of neighbours lie a tar's headers, labels and padding; no neighbour is farther off.
_MAX_GAP = 4 << 10
_UNITS_MEASURED = 32


@dataclass(frozen=True)
class Reads:
    """Reads of a unit of positions, samples that lie side by side in a shard being read in one piece.

    Means over units: samples, reads, bytes a read (what lies between neighbours included), bytes a unit.
    """

    samples: int
    reads: float
    bytes_per_read: float
    bytes_per_unit: float


def measure_reads(order: Order, rows: np.ndarray, unit: int, *, epoch: int = 0) -> Reads:
    """Reads of aligned units of `unit` positions, at most 32 of them spread over the epoch.

    Args:
        rows: (num_ids,) the manifest's rows: shard, offset and size of every sample.
        unit: a batch, or a window that a reader holds in memory.

    Raises:
        ValueError: a unit that is empty or longer than the epoch.
    """
    if not 1 <= unit <= order.num_samples:
        raise ValueError(f"a unit of reading must lie in [1, {order.num_samples}], got {unit}")
    num_units = order.num_samples // unit
    chosen = np.unique(np.linspace(0, num_units - 1, _UNITS_MEASURED).astype(np.int64))
    found = [pieces(order.ids(epoch, int(n) * unit, (int(n) + 1) * unit), rows) for n in chosen]
    reads = sum(len(lengths) for lengths in found)
    total = sum(int(lengths.sum()) for lengths in found)
    return Reads(unit, reads / len(found), total / reads, total / len(found))


def pieces(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Bytes of each contiguous piece of disk that these samples make up: (pieces,) int64."""
    own = rows[np.unique(ids)]
    shards, starts = own["shard"].astype(np.int64), own["offset"].astype(np.int64)
    by_place = np.lexsort((starts, shards))
    shards, starts = shards[by_place], starts[by_place]
    ends = starts + own["size"][by_place]
    gaps = starts[1:] - ends[:-1]
    begins = np.r_[True, (shards[1:] != shards[:-1]) | (gaps > _MAX_GAP) | (gaps < 0)]
    first = np.flatnonzero(begins)
    last = np.r_[first[1:] - 1, len(own) - 1]
    return np.asarray(ends[last] - starts[first])
