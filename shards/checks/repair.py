"""What `verify --repair` mends, in the order in which one thing is made from another."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from viewmill.shards.checks.faults import Fault
from viewmill.shards.checks.files import ASIDE, is_sound, leftovers
from viewmill.shards.checks.rebuild import rebuild_manifest
from viewmill.shards.checks.remake import Source, remake
from viewmill.shards.checks.tables import read_manifest
from viewmill.shards.checks.tars import written_members
from viewmill.shards.containers.tar import index_bytes
from viewmill.shards.durable import sha256_of, sync_folder, written_whole
from viewmill.shards.errors import ConvertError, ShardError
from viewmill.shards.info import FILE_NAME, KINDS, DataSetInfo, FileInfo, read_info
from viewmill.shards.manifest_table import records_of
from viewmill.shards.sources.tars import members_of_tar

LOSS = (
    "is rebuilt from the shards, but not to the byte: the endings in 'source' and the marks 'transcoded' are "
    "guesses now, for no shard holds them; ids, keys, labels, sizes and hashes are proven. "
    "dataset.json states the new file"
)


@dataclass
class Mended:
    """What a repair did.

    changed: whether it wrote anything. refusals: why a file could not be mended, by name. losses: what is
    whole again and yet not as it was.
    """

    changed: bool = False
    refusals: dict[str, str] = field(default_factory=dict)
    losses: list[Fault] = field(default_factory=list)


def mend(folder: Path, info: DataSetInfo, faults: list[Fault], source: Source | None) -> Mended:
    """Mends what can be: each file is taken only when something that is sound proves it.

    - Shards, quarantine.parquet and manifest.parquet from the source, where one is given, by the SHA-256 in
      dataset.json; the two tables of tars that are indexed in place from the tars themselves.
    - manifest.parquet from sound shards, by the data set hash; where its SHA-256 is another then,
      dataset.json gets the new one.
    - manifest.bin from the manifest, by its SHA-256; DALI's indexes from sound shards.

    Killed at any moment, it leaves a state that the next call mends.

    Raises:
        ConvertError: another repair is at work here.
    """
    mended = Mended()
    unsound = {fault.file for fault in faults}
    with _aside(folder, info, mended) as aside:
        origin = Source(folder) if source is None and info.in_place else source
        if origin is not None:
            made, refusals = remake(folder, info, unsound, origin, aside)
            mended.refusals |= refusals
            mended.changed |= bool(made)
        if "manifest.parquet" in unsound and not is_sound(folder, info.file("manifest.parquet")):
            info = _rebuilt_manifest(folder, info, unsound, aside, mended)
        _rebuild_bin(folder, info, mended)
        for shard in info.shards:
            touched = {shard.name, Path(shard.name).with_suffix(".idx").name} & unsound
            if touched and ".idx" in KINDS[info.kind] and is_sound(folder, shard):
                _rebuild_index(folder / shard.name, info, mended)
    return mended


@contextmanager
def _aside(folder: Path, info: DataSetInfo, mended: Mended) -> Iterator[Path]:
    """A new folder in the data set for what is not trusted yet; what an earlier repair left is removed."""
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConvertError(f"{folder}: another repair is at work here; wait for its end") from error
        for name in leftovers(folder, info):
            shutil.rmtree(folder / name) if name == ASIDE else (folder / name).unlink(missing_ok=True)
            mended.changed = True
        (folder / ASIDE).mkdir()
        yield folder / ASIDE
        shutil.rmtree(folder / ASIDE)
        sync_folder(folder)
    finally:
        os.close(lock)


def _rebuilt_manifest(
    folder: Path, info: DataSetInfo, unsound: set[str], aside: Path, mended: Mended
) -> DataSetInfo:
    """The description after manifest.parquet was rebuilt from the shards, or why it was not."""
    name = "manifest.parquet"
    if info.in_place:
        return info  # its tars were its source just now
    if info.kind != "webdataset":
        mended.refusals[name] = "betons hold no keys: make it again with --source SOURCE"
        return info
    damaged = next((shard.name for shard in info.shards if not is_sound(folder, shard)), None)
    if damaged is not None:
        mended.refusals[name] = f"'{damaged}' is not sound: repair that first"
        return info
    try:
        rebuild_manifest(folder, info, aside / name)
    except ShardError as error:
        mended.refusals[name] = str(error)
        return info
    found = FileInfo(name, (aside / name).stat().st_size, sha256_of(aside / name))
    # A crash between the two leaves a manifest that is not stated: it is rebuilt again.
    (aside / name).replace(folder / name)
    sync_folder(folder)
    mended.changed = True
    mended.refusals.pop(name, None)
    if found == info.file(name):
        return info
    mended.losses.append(Fault(name, LOSS, repaired=True))
    files = tuple(found if file.name == name else file for file in info.files)
    with written_whole(folder / FILE_NAME) as file:
        file.write(replace(info, files=files).to_json().encode())
    return read_info(folder)


def _rebuild_bin(folder: Path, info: DataSetInfo, mended: Mended) -> None:
    stated = info.file("manifest.bin")
    if is_sound(folder, stated) or not is_sound(folder, info.file("manifest.parquet")):
        return
    table = read_manifest(folder, info)
    if isinstance(table, Fault):
        return
    data = records_of(table).tobytes()
    if (len(data), hashlib.sha256(data).hexdigest()) != (stated.bytes, stated.sha256):
        mended.refusals["manifest.bin"] = "made from manifest.parquet it is not what dataset.json states"
        return
    with written_whole(folder / "manifest.bin") as file:
        file.write(data)
    mended.changed = True


def _rebuild_index(path: Path, info: DataSetInfo, mended: Mended) -> None:
    try:
        members = members_of_tar(path) if info.in_place else written_members(path)
    except (ConvertError, ShardError):
        return  # the check has named it
    with written_whole(path.with_suffix(".idx")) as file:
        file.write(index_bytes(members))
    mended.changed = True
