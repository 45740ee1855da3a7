"""How well an order would shuffle a data set: the figures of `inspect --shuffle` as a table and as JSON."""

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.quality import ShuffleQuality, measure_shuffle
from viewmill.pipelines.orders.reads import Reads, measure_reads
from viewmill.shards.survey import check_rows, labels_of_all
from viewmill.tools.tables import new_table

if TYPE_CHECKING:
    from viewmill.shards.manifest import Dataset

MEANINGS = {
    "class_entropy": "class entropy, nats",
    "distinct_classes": "classes in a batch",
    "adjacent_share": "disk neighbours, a sample",
    "step_length": "step on disk",
    "returns_soon": "back within 1/10 epoch",
    "gap_distance": "law of return, KS",
    "always_dropped": "dropped every epoch",
}
VERDICTS = {
    "perfect": "perfect: no figure tells it from a perfect shuffle",
    "good": "good: batches mix the classes within 2 % as a perfect shuffle does",
    "fair": "fair: batches mix the classes less than a perfect shuffle, or blocks are so few that neighbours "
    "return together; a larger window or a smaller block mixes more",
    "poor": "poor: batches hold few classes; take a larger window or a smaller block, or convert shuffled",
}


class ShuffleReport:
    """The figures of one order on one data set.

    Args:
        dataset: open; its manifest is read, no image.
        batch_size: of the whole job.
        block, window, seed: of the `SampleOrder`.
        epochs: that are measured.

    Raises:
        ValueError: see `SampleOrder` and `measure_shuffle`.
        ShardError: a damaged manifest.
    """

    def __init__(
        self, dataset: "Dataset", batch_size: int, *, block: int, window: int, seed: int, epochs: int
    ) -> None:
        check_rows(dataset)
        order = SampleOrder(dataset.num_samples, seed, block=block, window=window)
        self.order = order
        self.quality: ShuffleQuality = measure_shuffle(
            order, labels_of_all(dataset), batch_size, epochs=epochs
        )
        rows = dataset.manifest
        self.reads: dict[str, Reads] = {"batch": measure_reads(order, rows, batch_size)}
        if batch_size < window <= dataset.num_samples:
            self.reads["window"] = measure_reads(order, rows, window)

    @property
    def verdict(self) -> str:
        """A line for people."""
        line = VERDICTS[self.quality.grade]
        dropped = self.quality.always_dropped
        if dropped.errors_off > 4:
            line += (
                f". The short last batch drops the same {dropped.measured:.0f} samples in every epoch: "
                f"take a block that divides {self.order.num_samples}"
            )
        return line

    def as_json(self) -> dict[str, Any]:
        """Settings, every figure with its expected value and standard error, reads and verdict."""
        figures = {
            name: {**asdict(figure), "errors_off": off if math.isfinite(off := figure.errors_off) else None}
            for name, figure in self.quality.figures().items()
        }
        return {
            "order": self.order.describe(),
            "batch_size": self.quality.batch_size,
            "epochs": self.quality.epochs,
            "batches": self.quality.num_batches,
            "figures": figures,
            "reads": {unit: asdict(reads) for unit, reads in self.reads.items()},
            "grade": self.quality.grade,
            "verdict": self.verdict,
        }

    def tables(self) -> list[Table]:
        """Figures beside a perfect shuffle, and reads."""
        quality, order = self.quality, self.order
        rows = [
            (
                MEANINGS[name],
                f"{figure.measured:.5g}",
                f"{figure.expected:.5g}",
                f"{figure.standard_error:.2g}",
                f"{figure.errors_off:+.1f}",
            )
            for name, figure in quality.figures().items()
        ]
        title = (
            f"shuffle: block {order.block}, window {order.window}, batch {quality.batch_size}, "
            f"{quality.epochs} epochs"
        )
        headings = ("of a batch or sample", "measured", "perfect", "std. error", "errors off")
        reads = [
            (unit, f"{found.samples:,}", f"{found.reads:,.1f}", f"{found.bytes_per_read:,.0f}",
             f"{found.bytes_per_unit:,.0f}")
            for unit, found in self.reads.items()
        ]  # fmt: skip
        read_headings = ("read at once", "samples", "reads", "bytes a read", "bytes")
        return [
            new_table(title, headings, rows),
            new_table("reads, neighbours in one piece", read_headings, reads),
        ]
