"""A tar's structure: its members against the manifest, and DALI's index against its members."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from viewmill.shards.checks.faults import Fault
from viewmill.shards.containers.tar import Member, index_text, walk
from viewmill.shards.durable import written_whole
from viewmill.shards.errors import ShardError


def structure_faults(path: Path, number: int, table: pa.Table | None, repair: bool) -> Iterator[Fault]:
    """Faults of the archive's structure, and of DALI's index, which is made from it."""
    try:
        with path.open("rb") as file:
            members = list(walk(file, path.name))
    except ShardError as error:
        yield Fault(path.name, str(error).removeprefix(f"{path.name}: ") + "; convert again or take a copy")
        return
    if table is not None and not _agree(members, table, number):
        yield Fault(path.name, "its members are not those of manifest.parquet; convert again or take a copy")
        return
    index, expected = path.with_suffix(".idx"), index_text(members).encode()
    if index.is_file() and index.read_bytes() == expected:
        return
    message = "is not the index of its shard" if index.is_file() else "is missing"
    if repair:
        with written_whole(index) as file:
            file.write(expected)
    yield Fault(index.name, f"{message}; verify --repair rebuilds it", repaired=repair)


def _agree(members: list[Member], table: pa.Table, number: int) -> bool:
    """Whether a shard holds, in id order, KEY.EXT where the manifest says and KEY.cls after it."""
    rows = table.filter(pa.array(table.column("shard").to_numpy() == number))
    columns = (rows.column(name).to_pylist() for name in ("key", "ext", "offset", "size"))
    expected = [(f"{key}.{ext}", offset, size) for key, ext, offset, size in zip(*columns, strict=True)]
    images = [(member.name, member.offset, member.size) for member in members[0::2]]
    labels = [member.name for member in members[1::2]]
    return images == expected and labels == [name.partition(".")[0] + ".cls" for name, _, _ in expected]
