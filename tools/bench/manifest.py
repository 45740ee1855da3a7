"""`bench manifest`: opening a data set of many samples and finding one batch of rows; no images needed."""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table
from viewmill.pipelines.order import SampleOrder
from viewmill.shards.durable import sha256_of
from viewmill.shards.info import FILE_NAME, DataSetInfo, FileInfo, ShardInfo
from viewmill.shards.manifest import RECORD, Dataset
from viewmill.shards.manifest_table import QUARANTINE_SCHEMA, ROWS_PER_GROUP, SCHEMA
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import MANIFEST
from viewmill.tools.bench.memory import MIB, PAGE, peak_bytes

BATCH = 1024
CLASSES = 1000
IMAGE_BYTES = 100_000
SHARD_SAMPLES = 100_000
# What DESIGN asks for at 1e8 rows.


def run(
    rows: int,
    folder: Path,
    *,
    repeats: int = 5,
    parquet: bool = True,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Makes a data set of `rows` samples without images below `folder`, measures, and removes it.

    Each round is a process of its own that opens the data set and reads size, label and checked place of one
    batch of the shuffled order, another epoch each round. Pages of the file may be in the system's cache.

    Args:
        rows: samples; 36 bytes of disk each, and about 20 more with `parquet`.
        folder: on the file system to be measured.
        repeats: rounds; the figures are medians over them.
        parquet: make manifest.parquet too, and time a query of it.
        progress: told what is done.

    Returns:
        JSON-able: settings, seconds and resident MiB (beyond the process's before), the query, fingerprint.

    Raises:
        ValueError: fewer rows than a batch, or no round.
    """
    if rows < BATCH or repeats < 1:
        raise ValueError(f"rows must be at least {BATCH} and repeats at least 1, got {rows} and {repeats}")
    tell = progress or (lambda _: None)
    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-manifest-") as made:
        path = Path(made)
        tell(f"writing {rows} rows")
        write_data_set(path, rows, parquet)
        context, rounds = multiprocessing.get_context("spawn"), []
        for number in range(repeats):
            tell(f"round {number + 1} of {repeats}")
            with context.Pool(1) as pool:
                rounds.append(pool.apply(measure, (str(path), number)))
        query = time_query(path) if parquet else None
        sizes = {file.name: file.stat().st_size for file in path.glob("manifest.*")}
    return {
        "bench": "manifest",
        "rows": rows,
        "batch": BATCH,
        "repeats": repeats,
        **{name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
        **{f"{name}_worst": max(one[name] for one in rounds) for name in rounds[0]},
        "bytes": sizes,
        "query": query,
        "fingerprint": fingerprint(),
    }


def write_data_set(path: Path, rows: int, parquet: bool) -> None:
    """A data set that opens; its shards are files with holes, of the size that the rows speak of."""
    shards = []
    for shard in range(-(-rows // SHARD_SAMPLES)):
        samples = min(SHARD_SAMPLES, rows - shard * SHARD_SAMPLES)
        shard_info = ShardInfo(f"train-{shard:06d}.tar", samples, samples * IMAGE_BYTES, "0" * 64)
        with (path / shard_info.name).open("wb") as file:
            file.truncate(shard_info.bytes)
        shards.append(shard_info)
    write_rows(path, rows, parquet)
    pq.write_table(QUARANTINE_SCHEMA.empty_table(), path / "quarantine.parquet")
    files = [
        FileInfo(file.name, file.stat().st_size, sha256_of(file)) for file in sorted(path.glob("*.parquet"))
    ]
    binary = path / "manifest.bin"
    info = DataSetInfo(
        kind="webdataset",
        num_inputs=rows,
        num_samples=rows,
        num_quarantined=0,
        classes=tuple(str(label) for label in range(CLASSES)),
        shards=tuple(shards),
        files=(*files, FileInfo(binary.name, binary.stat().st_size, sha256_of(binary))),
        options={},
        data_set_hash="0" * 64,
    )
    (path / FILE_NAME).write_text(info.to_json(), encoding="utf-8")


def write_rows(path: Path, rows: int, parquet: bool) -> None:
    """manifest.bin, and manifest.parquet with the same rows (or with none)."""
    with (
        (path / "manifest.bin").open("wb") as file,
        pq.ParquetWriter(path / "manifest.parquet", SCHEMA, compression="zstd") as writer,
    ):
        for start in range(0, rows, ROWS_PER_GROUP):
            ids = np.arange(start, min(start + ROWS_PER_GROUP, rows))
            records = records_of_ids(ids)
            file.write(records.tobytes())
            if parquet:
                writer.write_table(table_of(ids, records), row_group_size=ROWS_PER_GROUP)


def records_of_ids(ids: np.ndarray) -> np.ndarray:
    records = np.empty(len(ids), RECORD)
    records["shard"], place = ids // SHARD_SAMPLES, ids % SHARD_SAMPLES
    records["offset"], records["size"] = place * IMAGE_BYTES, IMAGE_BYTES
    records["label"], records["width"], records["height"] = ids % CLASSES, 500, 375
    records["xxh64"] = ids
    return records


def table_of(ids: np.ndarray, records: np.ndarray) -> pa.Table:
    keys = [f"{i % CLASSES}/{i}" for i in ids.tolist()]
    constant = {"ext": ["jpg"] * len(ids), "transcoded": [False] * len(ids)}
    fixed = {name: np.ascontiguousarray(records[name]) for name in RECORD.names or ()}
    columns = {"id": ids, "key": keys, "source": [f"{key}.jpg" for key in keys], **fixed, **constant}
    return pa.table({field.name: columns[field.name] for field in SCHEMA}).cast(SCHEMA)


def measure(path: str, epoch: int) -> dict[str, float]:
    """Seconds and resident MiB of opening the data set and reading one batch's rows."""
    before, began = peak_bytes(), time.perf_counter()
    with Dataset.open(path) as dataset:
        ids = SampleOrder(dataset.num_samples, seed=0).ids(epoch, 0, BATCH)
        sizes, labels = dataset.sizes(ids), dataset.labels(ids)
        seconds = time.perf_counter() - began
        assert len(sizes) == len(labels) == BATCH
    return {"seconds": seconds, "resident_mib": max(peak_bytes() - before, PAGE) / MIB}


def time_query(path: Path) -> dict[str, Any]:
    """How long counting one class takes by manifest.parquet, read as a stream."""
    began, found = time.perf_counter(), 0
    with pq.ParquetFile(path / "manifest.parquet") as table:
        for batch in table.iter_batches(columns=["label"]):
            found += int((batch.column("label").to_numpy() == 7).sum())
    return {"what": "samples of class 7", "found": found, "seconds": time.perf_counter() - began}


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    shown = Table(title=f"manifest: {result['rows']:,} rows, one batch of {result['batch']}")
    for heading in ("", "median", "worst", "goal at 1e8"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, text in (("seconds", "{:.3f}"), ("resident_mib", "{:.0f}")):
        worst = text.format(result[f"{name}_worst"])
        shown.add_row(name, text.format(result[name]), worst, f"<= {MANIFEST[name]:g}")
    if result["query"]:
        shown.add_row("query of the parquet, s", f"{result['query']['seconds']:.1f}", "", "")
    return shown
