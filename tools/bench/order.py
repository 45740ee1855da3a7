"""`bench order`: orders of a billion samples, 1,024 simulated ranks, the mixing of blocks and windows."""

import multiprocessing
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.mixture import MixtureOrder, Part
from viewmill.pipelines.orders.positions import positions_of_micro_batch
from viewmill.pipelines.orders.quality import measure_shuffle
from viewmill.pipelines.orders.reads import measure_reads
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.orders.weighted import WeightedOrder
from viewmill.shards.rows import RECORD
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import ORDER
from viewmill.tools.bench.memory import MIB, peak_bytes
from viewmill.tools.tables import new_table

SAMPLES, BATCH, EPOCH = 10**9, 1024, 3
RANKS, GLOBAL_BATCH = 1024, 4096
SMALL = 10**6  # members of a subset, weights, the second part of a mixture
# What DESIGN asks of a billion samples.
KINDS: dict[str, Callable[[], Order]] = {
    "samples": lambda: SampleOrder(SAMPLES, 0),
    "block 256, window 65536": lambda: SampleOrder(SAMPLES, 0, block=256, window=65536),
    "mixture with 1e6 samples, 3:1": lambda: MixtureOrder(
        [Part(SampleOrder(SAMPLES, 0), 3), Part(SampleOrder(SMALL, 1), 1)]
    ),
    "subset of 1e6": lambda: SubsetOrder(np.arange(SMALL) * (SAMPLES // SMALL), SAMPLES, 0),
    "weights of 1e6": lambda: WeightedOrder(1 + np.arange(SMALL) % 7, SMALL, 0),
}
# A data set of ImageNet-1k's size: samples, classes, bytes of an image and of a shard.
IMAGENET, CLASSES, IMAGE_BYTES, SHARD_BYTES = 1_281_167, 1000, 110_000, 1 << 30
LOCALITIES = [(1, 0), (16, 16384), (64, 4096), (64, 16384), (64, 65536), (256, 65536), (256, 262144)]


def run(
    *,
    repeats: int = 5,
    imagenet: int = IMAGENET,
    localities: list[tuple[int, int]] | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures every kind of order in processes of their own, the ranks, and the quality of localities.

    Args:
        repeats: processes per kind; the figures are medians over them.
        imagenet: samples of the data set without images whose shuffling is measured.
        localities: (block, window) pairs that are measured on it.
        progress: told what is done.

    Returns:
        JSON-able: settings, figures of each kind, of the ranks, of each locality, fingerprint.

    Raises:
        ValueError: no round.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    tell = progress or (lambda _: None)
    context = multiprocessing.get_context("spawn")
    kinds = {}
    for kind in KINDS:
        tell(kind)
        rounds = []
        for _ in range(repeats):
            with context.Pool(1) as pool:
                rounds.append(pool.apply(measure, (kind,)))
        kinds[kind] = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
        kinds[kind] |= {f"{name}_worst": max(one[name] for one in rounds) for name in rounds[0]}
    tell(f"{RANKS} ranks")
    ranks = measure_ranks()
    quality = []
    for block, window in LOCALITIES if localities is None else localities:
        for is_sorted in (False, True):
            tell(f"block {block}, window {window}, {'sorted' if is_sorted else 'shuffled'}")
            quality.append(measure_quality(imagenet, block, window, is_sorted))
    return {
        "bench": "order",
        "samples": SAMPLES,
        "batch": BATCH,
        "repeats": repeats,
        "kinds": kinds,
        "ranks": ranks,
        "quality": quality,
        "fingerprint": fingerprint(),
    }


def measure(kind: str) -> dict[str, float]:
    """Milliseconds and memory of an order and its first batch, at a far position, and of later ones."""
    before, began = peak_bytes(), time.perf_counter()
    order = KINDS[kind]()
    made = time.perf_counter()
    start = order.num_samples - 5 * BATCH
    order.ids(EPOCH, start, start + BATCH)
    first = time.perf_counter()
    resident = peak_bytes() - before
    later = []
    for number in range(5):
        began_later = time.perf_counter()
        order.ids(EPOCH, start - number, start - number + BATCH)
        later.append(time.perf_counter() - began_later)
    tracemalloc.start()
    KINDS[kind]().ids(EPOCH, start, start + BATCH)
    traced = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "construct_ms": 1000 * (made - began),
        "first_batch_ms": 1000 * (first - began),
        "later_batch_ms": 1000 * statistics.median(later),
        "resident_mib": resident / MIB,
        "allocated_kib": traced / 1024,
    }


def measure_ranks() -> dict[str, Any]:
    """Whether 1,024 ranks together read the global batch of one, and the milliseconds of a rank's share."""
    order = SampleOrder(SAMPLES, 0, block=256, window=65536)
    step = order.num_samples // GLOBAL_BATCH - 1
    began = time.perf_counter()
    pieces = []
    for rank in range(RANKS):
        share = positions_of_micro_batch(
            step, 0, rank, global_batch=GLOBAL_BATCH, accumulation=1, world_size=RANKS
        )
        pieces.append(order.ids(EPOCH, share.start, share.stop))
    elapsed_s = time.perf_counter() - began
    whole = order.ids(EPOCH, step * GLOBAL_BATCH, (step + 1) * GLOBAL_BATCH)
    return {
        "ranks": RANKS,
        "global_batch": GLOBAL_BATCH,
        "equal": bool(np.array_equal(np.concatenate(pieces), whole)),
        "share_ms": 1000 * elapsed_s / RANKS,
    }


def measure_quality(num_samples: int, block: int, window: int, is_sorted: bool) -> dict[str, Any]:
    """Class mix and reads of a locality on a data set of `CLASSES` classes, without images."""
    labels = np.arange(num_samples) * CLASSES // num_samples
    if not is_sorted:
        labels = np.random.Generator(np.random.Philox(key=0)).permutation(labels)
    order = SampleOrder(num_samples, 0, block=block, window=window)
    quality = measure_shuffle(order, labels, BATCH, epochs=2)
    reads = measure_reads(order, synthetic_rows(num_samples), max(BATCH, window))
    per_batch = reads.samples / BATCH
    return {
        "source": "sorted" if is_sorted else "shuffled",
        "block": block,
        "window": window,
        "grade": quality.grade,
        "entropy_share": quality.entropy_share,
        "figures": {
            name: [f.measured, f.expected, f.standard_error] for name, f in quality.figures().items()
        },
        "reads_per_batch": reads.reads / per_batch,
        "mib_per_read": reads.bytes_per_read / MIB,
        "buffer_mib": reads.bytes_per_unit / MIB,
    }


def synthetic_rows(num_samples: int) -> np.ndarray:
    """Manifest rows of images that are all of one size, one after the other in shards of 1 GiB."""
    rows, ids = np.zeros(num_samples, RECORD), np.arange(num_samples)
    of_shard = SHARD_BYTES // IMAGE_BYTES
    rows["shard"], rows["offset"], rows["size"] = ids // of_shard, ids % of_shard * IMAGE_BYTES, IMAGE_BYTES
    return rows


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    shown = Table.grid()
    for part in (table_of_kinds(result), table_of_quality(result["quality"])):
        shown.add_row(part)
    return shown


def table_of_kinds(result: dict[str, Any]) -> Table:
    """Times and memory of each kind of order, and whether the ranks agree."""
    ranks = result["ranks"]
    rows = [
        (
            kind,
            *(f"{found[name]:.2f}" for name in ("construct_ms", "first_batch_ms", "later_batch_ms")),
            f"{found['allocated_kib']:,.0f}",
            f"{found['resident_mib']:.1f}",
        )
        for kind, found in result["kinds"].items()
    ]
    rows.append(("goal", "", f"<= {ORDER['first_batch_ms']:g}", "", "", f"<= {ORDER['resident_mib']:g}"))
    equal = "equal" if ranks["equal"] else "DIFFERENT"
    rows.append((f"{ranks['ranks']} ranks: {equal} batches", "", "", f"{ranks['share_ms']:.2f}", "", ""))
    headings = ("", "made, ms", "first, ms", "later, ms", "KiB", "MiB resident")
    return new_table(f"order: {result['samples']:,} samples, batches of {result['batch']}", headings, rows)


def table_of_quality(quality: list[dict[str, Any]]) -> Table:
    """Class mix and reads of each block and window."""
    rows = [
        (
            f"{found['source']}, {found['block']} / {found['window']}",
            found["grade"],
            f"{found['entropy_share']:.1%}",
            f"{found['reads_per_batch']:.0f}",
            f"{found['mib_per_read']:.2f}",
            f"{found['buffer_mib']:,.0f}",
        )
        for found in quality
    ]
    headings = ("block / window", "grade", "class entropy", "reads", "MiB a read", "MiB held")
    return new_table("shuffle quality beside a perfect shuffle, reads of a batch", headings, rows)
