"""Whether a data set is what was written: every byte read, every fault named, what can be rebuilt rebuilt."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from viewmill.shards.checks.betons import beton_faults
from viewmill.shards.checks.faults import Fault as Fault
from viewmill.shards.checks.tars import structure_faults
from viewmill.shards.containers.beton import image_file
from viewmill.shards.durable import sha256_of, written_whole
from viewmill.shards.images import decode_rgb
from viewmill.shards.info import FILE_NAME, KINDS, DataSetInfo, FileInfo, ShardInfo, read_info
from viewmill.shards.manifest import RECORD, SCHEMA, hash_of_data_set, records_of

_MAX_FAULTS_OF_A_SHARD = 20  # more say nothing new: the shard is to be replaced


def verify(
    path: str | Path,
    *,
    repair: bool = False,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Fault]:
    """Checks every file of a data set against dataset.json and the manifest, every image against its hash.

    Args:
        path: the data set.
        repair: rebuild manifest.bin and DALI's indexes where wrong, if what they are made from is right.
        decode: decode every image too, and compare its size: what a conversion with check 'header' trusted.
        progress: told bytes of shards read so far, and in all.

    Returns:
        The faults found, none if all is well; repaired ones are among them.

    Raises:
        FileNotFoundError: no data set there; ShardError: dataset.json itself cannot be read.
    """
    folder = Path(path)
    info = read_info(folder)
    faults = list(_description_faults(folder, info))
    faults += [fault for file in info.files for fault in _file_faults(folder, file)]
    sound = {file.name for file in info.files} - {fault.file for fault in faults}
    table = _table(folder, info, faults) if "manifest.parquet" in sound else None
    if repair and table is not None and "manifest.bin" not in sound:
        faults = _with_bin_rebuilt(folder, info, table, faults)
    rows = _rows(folder, table, "manifest.bin" in sound)
    done = 0
    for number, shard in enumerate(info.shards):
        faults += _shard_faults(folder, number, shard, table, rows, repair, decode)
        done += shard.bytes
        if progress is not None:
            progress(done, sum(shard.bytes for shard in info.shards))
    strangers = [
        Fault(name, "is no part of this data set; move it away") for name in _strangers(folder, info)
    ]
    return faults + strangers


def _description_faults(folder: Path, info: DataSetInfo) -> Iterator[Fault]:
    """Whatever reading overlooks: an unknown entry, other spaces, no hash of itself."""
    if (folder / FILE_NAME).read_text(encoding="utf-8") != info.to_json():
        yield Fault(FILE_NAME, "is not as it was written; take it from a copy or convert again")


def _file_faults(folder: Path, file: FileInfo | ShardInfo) -> Iterator[Fault]:
    path = folder / file.name
    by_repair = file.name == "manifest.bin"
    remedy = "verify --repair rebuilds it" if by_repair else "take it from a copy or convert again"
    if not path.is_file():
        yield Fault(file.name, f"is missing; {remedy}")
    elif path.stat().st_size != file.bytes:
        yield Fault(file.name, f"has {path.stat().st_size} bytes, dataset.json says {file.bytes}; {remedy}")
    elif (found := sha256_of(path)) != file.sha256:
        yield Fault(
            file.name, f"has SHA-256 {found[:16]}..., dataset.json says {file.sha256[:16]}...; {remedy}"
        )


def _table(folder: Path, info: DataSetInfo, faults: list[Fault]) -> pa.Table | None:
    """The manifest, or None with a fault where it contradicts dataset.json."""
    try:
        table = pq.read_table(folder / "manifest.parquet")
    except (pa.ArrowException, OSError) as error:
        faults.append(Fault("manifest.parquet", f"cannot be read ({error}); convert again"))
        return None
    contradiction = _contradiction(table, info)
    if contradiction:
        faults.append(Fault("manifest.parquet", f"{contradiction}; convert again or take a copy"))
        return None
    return table


def _contradiction(table: pa.Table, info: DataSetInfo) -> str | None:
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


def _with_bin_rebuilt(folder: Path, info: DataSetInfo, table: pa.Table, faults: list[Fault]) -> list[Fault]:
    with written_whole(folder / "manifest.bin") as file:
        file.write(records_of(table).tobytes())
    if list(_file_faults(folder, info.file("manifest.bin"))):
        return [
            *faults,
            Fault("manifest.bin", "even rebuilt, is not what dataset.json states; convert again"),
        ]
    return [Fault(f.file, f.message, repaired=True) if f.file == "manifest.bin" else f for f in faults]


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
    repair: bool,
    decode: bool,
) -> list[Fault]:
    faults = list(_file_faults(folder, shard))
    path = folder / shard.name
    if not path.is_file():
        return faults
    if rows is not None:
        keys = None if table is None else table.column("key")
        ids = np.flatnonzero(rows["shard"] == number)
        damaged = list(_damaged_images(path, rows, ids, keys, decode))
        faults += damaged[:_MAX_FAULTS_OF_A_SHARD]
        if len(damaged) > _MAX_FAULTS_OF_A_SHARD:
            faults.append(Fault(shard.name, f"has {len(damaged)} damaged samples, the first of them above"))
    if not faults and path.suffix == ".beton":
        faults += beton_faults(path, number, table)
    elif not faults:
        faults += structure_faults(path, number, table, repair)
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


def _strangers(folder: Path, info: DataSetInfo) -> list[str]:
    """Shards and indexes in the folder that dataset.json does not list: other tools would read them."""
    known = {FILE_NAME} | {file.name for file in info.files} | {shard.name for shard in info.shards}
    known |= {
        Path(shard.name).with_suffix(ending).name for shard in info.shards for ending in KINDS[info.kind]
    }
    endings = [ending for kind in KINDS.values() for ending in kind]
    return [
        name
        for ending in endings
        for name in sorted(path.name for path in folder.glob(f"*{ending}"))
        if name not in known
    ]
