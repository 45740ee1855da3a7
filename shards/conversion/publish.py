"""The end of a conversion: finished shards get their names, then the manifest, and last dataset.json."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from viewmill.shards.conversion.journal import ShardRecord, staged_refused, staged_shard
from viewmill.shards.conversion.plan import Plan
from viewmill.shards.durable import sha256_of, sync_folder, written_whole
from viewmill.shards.info import FILE_NAME, KINDS, MANIFEST_FILES, DataSetInfo, FileInfo, ShardInfo
from viewmill.shards.keys import printable
from viewmill.shards.manifest_table import (
    QUARANTINE_SCHEMA,
    ROWS_PER_GROUP,
    SCHEMA,
    hash_of_data_set,
    records_of,
)


def final_names(records: list[ShardRecord], kind: str) -> dict[int, str]:
    """File names of the shards by their number in the plan; a shard without samples gets none."""
    kept = [number for number, record in enumerate(records) if record.num_samples]
    return {number: f"train-{place:06d}{KINDS[kind][0]}" for place, number in enumerate(kept)}


def publish(dataset: Path, workspace: Path, plan: Plan, records: list[ShardRecord]) -> DataSetInfo:
    """Makes the data set out of finished shards; done again after a crash, it gives the same files."""
    kind = plan.options.format
    names = final_names(records, kind)
    for number, name in names.items():
        for staged in reversed(staged_shard(workspace, number, kind)):
            if staged.exists():  # not so where a crash came after this move
                staged.replace((dataset / name).with_suffix(staged.suffix))
    refused = list(_publish_refused(dataset, workspace, len(records)))
    sync_folder(dataset)  # the moves are durable before dataset.json names the shards
    return describe(dataset, plan, records, names, refused)


def describe(
    dataset: Path, plan: Plan, records: list[ShardRecord], names: dict[int, str], refused: list[str]
) -> DataSetInfo:
    """Writes the manifest of shards that are in their place, and last dataset.json.

    names: of the shards by their number in the plan. refused: names of the tars of refused bytes.
    """
    table = manifest_table(plan, records, names)
    fixed = records_of(table)
    with written_whole(dataset / "manifest.bin") as file:
        file.write(fixed.tobytes())
    write_parquet(dataset / "manifest.parquet", table)
    write_parquet(dataset / "quarantine.parquet", quarantine_table(plan, records))
    info = DataSetInfo(
        kind=plan.options.format,
        num_inputs=plan.num_inputs,
        num_samples=table.num_rows,
        num_quarantined=plan.num_inputs - table.num_rows,
        classes=plan.classes,
        shards=tuple(
            ShardInfo(name, records[number].num_samples, records[number].bytes, records[number].sha256)
            for number, name in names.items()
        ),
        files=tuple(_described(dataset / name) for name in (*MANIFEST_FILES, *refused)),
        options=plan.recorded_options(),
        data_set_hash=hash_of_data_set(table.column("key").to_pylist(), fixed),
    )
    with written_whole(dataset / FILE_NAME) as file:
        file.write(info.to_json().encode())
    return info


def _publish_refused(dataset: Path, workspace: Path, num_shards: int) -> Iterator[str]:
    """Names of the tars of refused bytes, where they are kept."""
    for number in range(num_shards):
        staged, name = staged_refused(workspace, number), f"quarantine-{number:06d}.tar"
        if staged.exists():
            staged.replace(dataset / name)
        if (dataset / name).exists():
            yield name


def manifest_table(plan: Plan, records: list[ShardRecord], names: dict[int, str]) -> pa.Table:
    """manifest.parquet of these shards, in id order."""
    shards = [_rows_of_shard(plan, records, number, place) for place, number in enumerate(names)]
    table = pa.concat_tables(shards).combine_chunks()
    # Not Table.cast: the types are the schema's already, and a first cast loads all kernels, for 50 ms.
    ids = pa.array(range(table.num_rows), pa.int64())
    return pa.Table.from_arrays([ids, *table.columns], schema=SCHEMA)


def _rows_of_shard(plan: Plan, records: list[ShardRecord], number: int, place: int) -> pa.Table:
    samples = records[number].samples
    images = [plan.shards[number][position] for position in samples.position]
    columns = {
        "key": [image.key for image in images],
        "source": [printable(image.source) for image in images],
        "shard": [place] * len(images),
        "offset": samples.offset,
        "size": samples.size,
        "ext": samples.ext,
        "label": [image.label for image in images],
        "width": samples.width,
        "height": samples.height,
        "xxh64": samples.xxh64,
        "transcoded": samples.transcoded,
    }
    return pa.table(columns, schema=pa.schema([SCHEMA.field(name) for name in columns]))


def quarantine_table(plan: Plan, records: list[ShardRecord]) -> pa.Table:
    """quarantine.parquet, in the order of the sources."""
    rows = sorted(
        chain(_refused_in_shards(plan, records), _refused_at_plan(plan)), key=lambda row: str(row["source"])
    )
    return pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA)


def _refused_in_shards(plan: Plan, records: list[ShardRecord]) -> Iterator[dict[str, str | int | None]]:
    for images, record in zip(plan.shards, records, strict=True):
        for row in record.quarantined:
            image = images[row.position]
            source = printable(image.source)
            yield {"source": source, "reason": row.reason, "xxh64": row.xxh64, "size": image.size}


def _refused_at_plan(plan: Plan) -> Iterator[dict[str, str | int | None]]:
    for file in plan.unusable:
        yield {"source": printable(file.path), "reason": file.fault, "xxh64": None, "size": file.place.size}


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes one of the data set's tables; equal tables give equal bytes."""
    with written_whole(path) as file:
        pq.write_table(
            table, file, row_group_size=ROWS_PER_GROUP, compression="zstd", write_page_checksum=True
        )


def _described(path: Path) -> FileInfo:
    return FileInfo(path.name, path.stat().st_size, sha256_of(path))
