"""manifest.parquet as a table: read with care, and compared with what dataset.json says of it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from viewmill.shards.checks.faults import Fault
from viewmill.shards.info import DataSetInfo
from viewmill.shards.manifest_table import SCHEMA, hash_of_data_set, records_of


def read_manifest(folder: Path, info: DataSetInfo) -> pa.Table | Fault:
    """The manifest, or the fault that it has."""
    try:
        table = pq.read_table(folder / "manifest.parquet")
    except (pa.ArrowException, OSError) as error:
        return Fault("manifest.parquet", f"cannot be read ({error}); convert again")
    fault = contradiction(table, info)
    return Fault("manifest.parquet", f"{fault}; convert again or take a copy") if fault else table


def contradiction(table: pa.Table, info: DataSetInfo) -> str | None:
    """How a manifest contradicts dataset.json; None where it does not."""
    if not table.schema.equals(SCHEMA):
        return f"has the columns {', '.join(table.schema.names)} of unexpected names or types"
    if any(column.null_count for column in table.columns):
        return "has empty cells"
    if not np.array_equal(table.column("id").to_numpy(), np.arange(info.num_samples)):
        return f"has ids that are not 0 .. {info.num_samples - 1}"
    counts = np.bincount(np.clip(table.column("shard").to_numpy(), 0, None), minlength=len(info.shards))
    if counts.tolist() != [shard.samples for shard in info.shards]:
        return "counts other samples in the shards than dataset.json"
    labels = table.column("label").to_numpy()
    if labels.min() < -1 or labels.max() >= len(info.classes):
        return f"has labels outside the {len(info.classes)} classes of dataset.json"
    if hash_of_data_set(table.column("key").to_pylist(), records_of(table)) != info.data_set_hash:
        return "does not give the data set hash that dataset.json states"
    return None


def refused_sources(folder: Path) -> set[str] | None:
    """The sources in quarantine.parquet; None where it cannot be read."""
    try:
        found = pq.read_table(folder / "quarantine.parquet", columns=["source"]).column("source")
    except (pa.ArrowException, OSError, KeyError):
        return None
    return set(found.to_pylist())
