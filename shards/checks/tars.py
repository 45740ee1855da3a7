"""A tar's structure: its members against the manifest, and DALI's index against its members."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from viewmill.shards.checks.faults import Fault
from viewmill.shards.containers.tar import Member, index_bytes, walk
from viewmill.shards.errors import ConvertError, ShardError
from viewmill.shards.keys import printable
from viewmill.shards.sources.inputs import Input
from viewmill.shards.sources.tars import inputs_of_tar, members_of_tar
from viewmill.shards.storage.local import LocalTree


def structure_faults(path: Path, number: int, table: pa.Table | None) -> Iterator[Fault]:
    """Faults of the archive's structure, and of DALI's index, which is made from it."""
    try:
        members = written_members(path)
    except ShardError as error:
        yield Fault(path.name, str(error).removeprefix(f"{path.name}: ") + "; convert again or take a copy")
        return
    if table is not None and not _agree(members, table, number):
        yield Fault(path.name, "its members are not those of manifest.parquet; convert again or take a copy")
        return
    yield from _index_faults(path, members)


def faults_in_place(
    path: Path, number: int, table: pa.Table | None, refused: set[str] | None
) -> Iterator[Fault]:
    """The same for a tar of another writer: every input in it is a sample where it lies, or was refused.

    refused: the sources in quarantine.parquet, None where they are not known.
    """
    try:
        inputs, members = inputs_of_tar(LocalTree(str(path.parent)), path.name), members_of_tar(path)
    except ConvertError as error:
        yield Fault(path.name, str(error).removeprefix(f"{path}: "))
        return
    if table is not None and not _agree_in_place(inputs, table, number, refused):
        yield Fault(
            path.name, "its images are not those of manifest.parquet; index it again: convert --in-place"
        )
        return
    yield from _index_faults(path, members)


def written_members(path: Path) -> list[Member]:
    """The members of a shard that `TarWriter` wrote.

    Raises:
        ShardError: as `walk`.
    """
    with path.open("rb") as file:
        return list(walk(file, path.name))


def _index_faults(path: Path, members: list[Member]) -> Iterator[Fault]:
    index = path.with_suffix(".idx")
    if index.is_file() and index.read_bytes() == index_bytes(members):
        return
    message = "is not the index of its shard" if index.is_file() else "is missing"
    yield Fault(index.name, f"{message}; verify --repair rebuilds it")


def _agree(members: list[Member], table: pa.Table, number: int) -> bool:
    """Whether a shard holds, in id order, KEY.EXT where the manifest says and KEY.cls after it."""
    columns = _columns_of_shard(table, number, "key", "ext", "offset", "size")
    expected = [(f"{key}.{ext}", offset, size) for key, ext, offset, size in columns]
    images = [(member.name, member.offset, member.size) for member in members[0::2]]
    labels = [member.name for member in members[1::2]]
    return images == expected and labels == [name.partition(".")[0] + ".cls" for name, _, _ in expected]


def _agree_in_place(inputs: list[Input], table: pa.Table, number: int, refused: set[str] | None) -> bool:
    rows = _columns_of_shard(table, number, "source", "key", "offset", "size")
    found = [(printable(one.path), one.key, one.place.offset, one.place.size) for one in inputs]
    samples = {source for source, *_ in rows}
    rest = {source for source, *_ in found} - samples
    return [one for one in found if one[0] in samples] == rows and (refused is None or rest <= refused)


def _columns_of_shard(table: pa.Table, number: int, *names: str) -> list[tuple]:
    rows = table.filter(pa.array(table.column("shard").to_numpy() == number))
    return list(zip(*(rows.column(name).to_pylist() for name in names), strict=True))
