"""manifest.parquet made again from the shards alone: each image's place, name, label, hash and size."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from viewmill.shards.checks.tables import contradiction
from viewmill.shards.checks.tars import written_members
from viewmill.shards.conversion.publish import write_parquet
from viewmill.shards.durable import sha256_of
from viewmill.shards.errors import ShardError
from viewmill.shards.images import MAX_BYTES, decode_rgb, encode_png, probe
from viewmill.shards.info import DataSetInfo
from viewmill.shards.keys import source_of_key
from viewmill.shards.manifest_table import SCHEMA

_LABEL = re.compile(rb"-1|0|[1-9][0-9]{0,8}")
# How cameras and data sets spell the ending that shards call jpg; a source mostly has one spelling.
_JPEG_ENDINGS = ("jpg", "JPEG", "jpeg", "JPG")


def rebuild_manifest(folder: Path, info: DataSetInfo, path: Path) -> pa.Table:
    """Writes the manifest of a data set of tars to `path` and returns it.

    The data set hash proves ids, keys, labels and sizes; the shards' SHA-256, which the caller has checked,
    proves the rest but for two columns that no shard holds: `source` is the key, unescaped, with an ending;
    `transcoded` is true for a PNG that this version would write from the same pixels. Where all JPEGs of a
    folder had one of the usual endings, the file is mostly the one that was lost; its SHA-256 tells.

    Raises:
        ShardError: the shards do not hold what dataset.json states.
    """
    table = _table_of(folder, info)
    if fault := contradiction(table, info):
        raise ShardError(f"what the shards hold {fault}")
    stated = info.file("manifest.parquet").sha256
    for ending in _JPEG_ENDINGS:
        spelled = _with_ending(table, ending)
        write_parquet(path, spelled)
        if sha256_of(path) == stated:
            return spelled
    write_parquet(path, table)
    return table


def _table_of(folder: Path, info: DataSetInfo) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for number, shard in enumerate(info.shards):
        for row in _rows_of_shard(folder / shard.name, number):
            for name, value in row.items():
                columns[name].append(value)
    columns["id"] = list(range(len(columns["key"])))
    return pa.table(columns, schema=SCHEMA)


def _rows_of_shard(path: Path, number: int) -> Iterator[dict[str, Any]]:
    members = written_members(path)
    if len(members) % 2:
        raise ShardError(f"{path.name}: holds an image without its .cls")
    with path.open("rb") as file:
        for image, label in zip(members[0::2], members[1::2], strict=True):
            key, _, ext = image.name.partition(".")
            if label.name != f"{key}.cls" or image.size > MAX_BYTES:
                raise ShardError(f"{path.name}: '{image.name}' at byte {image.offset} is no sample of ours")
            file.seek(image.offset)
            data = file.read(image.size)
            file.seek(label.offset)
            text = file.read(min(label.size, 16))
            place = f"{path.name}: '{image.name}' at byte {image.offset}"
            yield {"shard": number, "offset": image.offset, **_row(place, key, ext, data, text)}


def _row(place: str, key: str, ext: str, data: bytes, label: bytes) -> dict[str, Any]:
    if not _LABEL.fullmatch(label):
        raise ShardError(f"{place} has the label {label!r:.40}")
    try:
        info = probe(data)
        return {
            "key": key,
            "source": f"{source_of_key(key)}.{ext}",
            "size": len(data),
            "ext": ext,
            "label": int(label),
            "width": info.width,
            "height": info.height,
            "xxh64": xxhash.xxh64_intdigest(data),
            "transcoded": info.format == "PNG" and encode_png(decode_rgb(data)) == data,
        }
    except ValueError as error:  # ImageError too
        raise ShardError(f"{place}: {error}") from error


def _with_ending(table: pa.Table, ending: str) -> pa.Table:
    """The table with sources of stored JPEGs that end so."""
    sources = pc.if_else(
        pc.equal(table.column("ext"), "jpg"),
        pc.replace_substring_regex(table.column("source"), r"jpg$", ending),
        table.column("source"),
    )
    return table.set_column(
        SCHEMA.get_field_index("source"), SCHEMA.field("source"), sources
    ).combine_chunks()
