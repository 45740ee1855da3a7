"""A beton's structure: its tables against each other and the manifest, and zeros wherever no image is."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from viewmill.shards.checks.faults import Fault
from viewmill.shards.containers.beton import walk
from viewmill.shards.errors import ShardError


def beton_faults(path: Path, number: int, table: pa.Table | None) -> Iterator[Fault]:
    """Faults of the file's structure; without a sound manifest, only those that the file itself shows."""
    try:
        with path.open("rb") as file:
            samples = walk(file, path.name)
    except ShardError as error:
        yield Fault(path.name, str(error).removeprefix(f"{path.name}: ") + "; convert again or take a copy")
        return
    if table is not None and not _agree(samples, table, number):
        yield Fault(path.name, "its samples are not those of manifest.parquet; convert again or take a copy")


def _agree(samples: np.ndarray, table: pa.Table, number: int) -> bool:
    """Whether a shard holds, in id order, the images, sizes and labels that the manifest says."""
    rows = table.filter(pa.array(table.column("shard").to_numpy() == number))
    if rows.num_rows != len(samples):
        return False
    names = ("offset", "size", "label", "width", "height")
    same = all(np.array_equal(samples[name], rows.column(name).to_numpy()) for name in names)
    exts = np.where(samples["raw"], "raw", "jpg").tolist()
    return same and rows.column("ext").to_pylist() == exts
