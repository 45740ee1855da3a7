"""Whether a data set is what was written: every byte read, every fault named, what can be mended mended."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash
from viewmill.shards.checks.betons import beton_faults
from viewmill.shards.checks.faults import Fault as Fault
from viewmill.shards.checks.files import description_faults, file_faults, strangers
from viewmill.shards.checks.remake import Source as Source
from viewmill.shards.checks.repair import mend
from viewmill.shards.checks.tables import read_manifest, refused_sources
from viewmill.shards.checks.tars import faults_in_place, structure_faults
from viewmill.shards.containers.beton import image_file
from viewmill.shards.images import decode_rgb
from viewmill.shards.info import DataSetInfo, ShardInfo, read_info
from viewmill.shards.manifest import RECORD
from viewmill.shards.manifest_table import records_of

_MAX_FAULTS_OF_A_SHARD = 20  # more say nothing new: the shard is to be replaced
Tell = Callable[[int, int], None]


def verify(
    path: str | Path,
    *,
    repair: bool = False,
    source: Source | None = None,
    decode: bool = False,
    progress: Tell | None = None,
) -> list[Fault]:
    """Checks every file of a data set against dataset.json and the manifest, every image against its hash.

    Args:
        path: the data set.
        repair: mend what can be mended, see `checks.repair.mend`, and check all of it again: a fault counts
            as repaired where the second check does not find it.
        source: what the data set was made from, for a repair that makes shards again.
        decode: decode every image too, and compare its size: what a conversion with check 'header' trusted.
        progress: told bytes of shards read so far, and in all.

    Returns:
        The faults found, none if all is well; repaired ones are among them.

    Raises:
        FileNotFoundError: no data set there; ShardError: dataset.json itself cannot be read.
        ValueError: a source without repair.
    """
    if source is not None and not repair:
        raise ValueError(f"{source.path}: a source is for a repair; add --repair")
    folder = Path(path)
    found = _faults(folder, read_info(folder), decode, progress)
    if not repair or not found:
        return found
    mended = mend(folder, read_info(folder), found, source)
    left = _faults(folder, read_info(folder), decode, progress) if mended.changed else found
    told = [_with_reason(fault, left, mended.refusals) for fault in found]
    told += [fault for fault in left if fault not in found]
    silent = mended.refusals.keys() - {fault.file for fault in told}
    return told + mended.losses + [Fault(name, mended.refusals[name]) for name in sorted(silent)]


def _with_reason(fault: Fault, left: list[Fault], refusals: dict[str, str]) -> Fault:
    if fault not in left:
        return replace(fault, repaired=True)
    reason = refusals.get(fault.file)
    return replace(fault, message=f"{fault.message}; not repaired: {reason}") if reason else fault


def _faults(folder: Path, info: DataSetInfo, decode: bool, progress: Tell | None) -> list[Fault]:
    """All that is wrong; nothing is written."""
    faults = list(description_faults(folder, info))
    faults += [fault for file in info.files for fault in file_faults(folder, file)]
    sound = {file.name for file in info.files} - {fault.file for fault in faults}
    table = read_manifest(folder, info) if "manifest.parquet" in sound else None
    if isinstance(table, Fault):
        faults.append(table)
        table = None
    rows = _rows(folder, table, "manifest.bin" in sound)
    refused = refused_sources(folder) if "quarantine.parquet" in sound else None
    done, total = 0, sum(shard.bytes for shard in info.shards)
    for number, shard in enumerate(info.shards):
        own = _shard_faults(folder, number, shard, table, rows, decode, info.in_place)
        if not own and info.in_place:
            own += faults_in_place(folder / shard.name, number, table, refused)
        elif not own and info.kind == "ffcv":
            own += beton_faults(folder / shard.name, number, table)
        elif not own:
            own += structure_faults(folder / shard.name, number, table)
        faults += own
        done += shard.bytes
        if progress is not None:
            progress(done, total)
    return faults + list(strangers(folder, info))


def _rows(folder: Path, table: pa.Table | None, bin_is_sound: bool) -> np.ndarray | None:
    """Rows to check images by: the table's, else those of a sound manifest.bin, else None."""
    if table is not None:
        return records_of(table)
    return np.fromfile(folder / "manifest.bin", dtype=RECORD) if bin_is_sound else None


def _shard_faults(
    folder: Path,
    number: int,
    shard: ShardInfo,
    table: pa.Table | None,
    rows: np.ndarray | None,
    decode: bool,
    in_place: bool,
) -> list[Fault]:
    faults = list(file_faults(folder, shard, in_place))
    if (folder / shard.name).is_file() and rows is not None:
        keys = None if table is None else table.column("key")
        ids = np.flatnonzero(rows["shard"] == number)
        damaged = list(_damaged_images(folder / shard.name, rows, ids, keys, decode))
        faults += damaged[:_MAX_FAULTS_OF_A_SHARD]
        if len(damaged) > _MAX_FAULTS_OF_A_SHARD:
            faults.append(Fault(shard.name, f"has {len(damaged)} damaged samples, the first of them above"))
    return faults


def _damaged_images(
    path: Path, rows: np.ndarray, ids: np.ndarray, keys: pa.ChunkedArray | None, decode: bool
) -> Iterator[Fault]:
    with path.open("rb") as file:
        for sample in ids.tolist():
            row = rows[sample]
            file.seek(max(0, int(row["offset"])))
            data = file.read(max(0, int(row["size"])))
            name = f"id {sample}" if keys is None else f"'{keys[sample].as_py()}'"
            if (found := xxhash.xxh64_intdigest(data)) != row["xxh64"]:
                yield Fault(
                    path.name,
                    f"sample {name} at byte {row['offset']} has hash {found:016x}, the manifest says "
                    f"{int(row['xxh64']):016x}; take the shard from a copy or convert again",
                )
            elif decode and (reason := _does_not_decode(path, data, int(row["width"]), int(row["height"]))):
                yield Fault(
                    path.name,
                    f"sample {name} at byte {row['offset']}: {reason}; convert again with --check decode",
                )


def _does_not_decode(path: Path, data: bytes, width: int, height: int) -> str | None:
    try:
        image = image_file(data, width, height) if path.suffix == ".beton" else data
        found = decode_rgb(image).shape[1::-1]
    except ValueError as error:  # an ImageError, or neither JPEG nor raw pixels
        return str(error)
    if found != (width, height):
        return f"is {found[0]}x{found[1]} pixels, the manifest says {width}x{height}"
    return None
