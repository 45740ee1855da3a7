"""The manifest: one row a sample, in id order; and the Dataset that reads samples by it.

manifest.parquet is the whole table; manifest.bin mirrors its fixed-width columns for training, memory-mapped.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from viewmill.shards.containers.beton import image_file
from viewmill.shards.durable import read_at
from viewmill.shards.errors import ShardError
from viewmill.shards.images import MAX_BYTES, MAX_RAW_BYTES
from viewmill.shards.info import DataSetInfo, read_info
from viewmill.shards.rows import RECORD as RECORD
from viewmill.shards.rows import Rows

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("ext", pa.string()),
        ("label", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("xxh64", pa.uint64()),
        ("transcoded", pa.bool_()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [("source", pa.string()), ("reason", pa.string()), ("xxh64", pa.uint64()), ("size", pa.int64())]
)
ROWS_PER_GROUP = 65_536
_MAX_OPEN_SHARDS = 256  # beyond these a shard is opened for each batch; a process may hold 1,024 files
_MAX_KEY_GROUPS = 4


def records_of(table: pa.Table) -> np.ndarray:
    """The fixed-width columns of a manifest table as RECORD rows, what manifest.bin holds."""
    records = np.empty(table.num_rows, RECORD)
    for name in RECORD.names or ():
        records[name] = table.column(name).to_numpy()
    return records


def hash_of_data_set(keys: Iterable[str], records: np.ndarray) -> str:
    """SHA-256 over (id, key, label, width, height) in id order, whatever the shards are.

    Each row is five little-endian numbers (id and the key's length of 64 bits, else 32) and the key in UTF-8.
    """
    digest = hashlib.sha256(b"viewmill data set 1\n")
    columns = zip(keys, *(records[name].tolist() for name in ("label", "width", "height")), strict=True)
    for sample, (key, label, width, height) in enumerate(columns):
        text = key.encode()
        digest.update(struct.pack("<qqiii", sample, len(text), label, width, height) + text)
    return digest.hexdigest()


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """What pyarrow raises in the block over a damaged parquet file becomes a ShardError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError, IndexError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's, not the file's
        text = " ".join(str(error).split())[:200]
        raise ShardError(
            f"{path}: {what} cannot be read ({text}); run: viewmill verify {path.parent}"
        ) from error


class Dataset:
    """A data set on disk, read by offset; every image's hash is checked before its bytes are given out.

    Safe to use from several threads. Close it, or use it as a context manager, to free its files.
    """

    def __init__(self, path: Path, info: DataSetInfo, rows: Rows) -> None:
        """Use `Dataset.open`."""
        self.path = path
        self.info = info
        self._manifest = rows
        self._shard_bytes = np.array([shard.bytes for shard in info.shards], dtype=np.int64)
        self._lock = threading.Lock()
        self._files: dict[int, int] = {}
        self._keys: dict[int, list[str]] = {}
        self._closed = False

    @classmethod
    def open(cls, path: str | Path) -> "Dataset":
        """Opens a data set: dataset.json is checked, shards are there with their sizes, no row is read.

        Raises:
            FileNotFoundError: no data set at this path.
            ShardError: a file that is missing, damaged or of another size; the message names it.
        """
        folder = Path(path)
        info = read_info(folder)
        for file in info.files:
            _check_size(folder, file.name, file.bytes)
        for shard in info.shards:
            _check_size(folder, shard.name, shard.bytes)
        if info.file("manifest.bin").bytes != info.num_samples * RECORD.itemsize:
            raise ShardError(
                f"{folder / 'manifest.bin'}: not {RECORD.itemsize} bytes for each of "
                f"{info.num_samples} samples; run: viewmill verify {folder} --repair"
            )
        return cls(folder, info, Rows(folder / "manifest.bin"))

    @property
    def manifest(self) -> np.ndarray:
        """All rows of manifest.bin, memory-mapped: (num_samples,) RECORD; none once it is closed."""
        return self._manifest.all

    @property
    def num_samples(self) -> int:
        return self.info.num_samples

    @property
    def classes(self) -> tuple[str, ...]:
        return self.info.classes

    @property
    def data_set_hash(self) -> str:
        return self.info.data_set_hash

    @property
    def kind(self) -> str:
        return self.info.kind

    def sizes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """(width, height) of the upright images: (n, 2) int64."""
        rows = self._rows(ids)
        sizes = np.stack([rows["width"], rows["height"]], axis=1).astype(np.int64)
        self._refuse_rows(ids, sizes.min(axis=1) < 1, "an impossible size")
        return sizes

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Class numbers, -1 where there is none: (n,) int64."""
        labels: np.ndarray = self._rows(ids)["label"].astype(np.int64)
        unknown = np.asarray((labels < -1) | (labels >= len(self.classes)))
        self._refuse_rows(ids, unknown, "an unknown label")
        return labels

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """The keys of these samples, from manifest.parquet, a row group at a time as they are asked for."""
        self._rows(ids)
        return [self._key_group(int(i) // ROWS_PER_GROUP)[int(i) % ROWS_PER_GROUP] for i in ids]

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """These images as files, in the order asked for, the stored bytes checked against their xxh64.

        Raw pixels of a beton come behind a header that makes them a PPM; all else is as it is stored.

        Raises:
            IndexError: an id outside the data set.
            ShardError: bytes that are missing or not those that were written.
        """
        rows = self._checked_rows(ids)
        images: list[bytes] = []
        borrowed: dict[int, int] = {}  # shards opened for this call only
        try:
            for sample, row in zip(ids, rows, strict=True):
                images.append(self._read_one(int(sample), row, borrowed))
        finally:
            for file in borrowed.values():
                os.close(file)
        return images

    def close(self) -> None:
        """Closes the shards and the manifest; the data set cannot be read after it."""
        with self._lock:
            if not self._closed:
                self._manifest.close()
            self._closed = True
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        if self._closed:
            raise ValueError(f"{self.path}: the data set is closed")
        wanted = np.asarray(ids, dtype=np.int64)
        if wanted.ndim != 1:
            raise ValueError(f"ids are one list of numbers, got shape {wanted.shape}")
        outside = wanted[(wanted < 0) | (wanted >= self.num_samples)]
        if outside.size:
            raise IndexError(f"{self.path}: no sample {outside[0]}, ids go from 0 to {self.num_samples - 1}")
        return self._manifest.of(wanted)

    def _checked_rows(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows whose byte ranges lie inside shards that exist: manifest.bin is untrusted."""
        rows = self._rows(ids)
        known = (rows["shard"] >= 0) & (rows["shard"] < len(self._shard_bytes))
        ends = rows["offset"] + rows["size"]  # cannot overflow where the two tests before it hold
        room = self._shard_bytes[np.where(known, rows["shard"], 0)]
        inside = (rows["offset"] >= 0) & (rows["offset"] <= room) & (rows["size"] > 0) & (ends <= room)
        limit = MAX_RAW_BYTES if self.kind == "ffcv" else MAX_BYTES
        self._refuse_rows(ids, ~(known & inside & (rows["size"] <= limit)), "no place in a shard")
        return rows

    def _refuse_rows(self, ids: Sequence[int] | np.ndarray, bad: np.ndarray, fault: str) -> None:
        if bad.any():
            sample = int(np.asarray(ids)[bad][0])
            raise ShardError(
                f"{self.path / 'manifest.bin'}: sample {sample} has {fault} "
                f"({self.manifest[sample].item()}); run: viewmill verify {self.path} --repair"
            )

    def _read_one(self, sample: int, row: np.void, borrowed: dict[int, int]) -> bytes:
        shard, offset, size = int(row["shard"]), int(row["offset"]), int(row["size"])
        data = read_at(self._file_of(shard, borrowed), size, offset)
        found, expected = xxhash.xxh64_intdigest(data), int(row["xxh64"])
        if len(data) < size or found != expected:
            held = f"hash {found:016x}" if len(data) == size else f"only {len(data)} of {size} bytes"
            raise ShardError(
                f"{self.path / self.info.shards[shard].name}: sample '{self._key_for_error(sample)}' at byte "
                f"{offset} has {held}, the manifest says {expected:016x}; run: viewmill verify {self.path}"
            )
        return data if self.kind != "ffcv" else self._image_file(sample, row, data)

    def _image_file(self, sample: int, row: np.void, data: bytes) -> bytes:
        try:
            return image_file(data, int(row["width"]), int(row["height"]))
        except ValueError as error:
            raise ShardError(
                f"{self.path / 'manifest.bin'}: sample '{self._key_for_error(sample)}' is {error}; "
                f"run: viewmill verify {self.path} --repair"
            ) from error

    def _key_for_error(self, sample: int) -> str:
        try:
            return self.keys([sample])[0]
        except (ShardError, OSError):  # the damage that is being reported may have reached the parquet too
            return f"id {sample}"

    def _file_of(self, shard: int, borrowed: dict[int, int]) -> int:
        if shard in borrowed:
            return borrowed[shard]
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.path}: the data set is closed")
            if shard not in self._files and len(self._files) < _MAX_OPEN_SHARDS:
                self._files[shard] = self._open(shard)
            if shard in self._files:
                return self._files[shard]
        borrowed[shard] = self._open(shard)
        return borrowed[shard]

    def _open(self, shard: int) -> int:
        path = self.path / self.info.shards[shard].name
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise ShardError(f"{path}: the shard is gone; put it back or convert again") from error

    def _key_group(self, group: int) -> list[str]:
        with self._lock:
            if group not in self._keys:
                while len(self._keys) >= _MAX_KEY_GROUPS:
                    self._keys.pop(next(iter(self._keys)))
                self._keys[group] = self._load_keys(group)
            return self._keys[group]

    def _load_keys(self, group: int) -> list[str]:
        path = self.path / "manifest.parquet"
        expected = min(ROWS_PER_GROUP, self.num_samples - group * ROWS_PER_GROUP)
        with damage_named(path, f"row group {group}"), pq.ParquetFile(path) as parquet:
            keys = parquet.read_row_group(group, columns=["key"]).column("key").to_pylist()
        if len(keys) != expected:
            raise ShardError(
                f"{path}: row group {group} has {len(keys)} rows, expected {expected}; convert again"
            )
        return keys


def _check_size(folder: Path, name: str, expected: int) -> None:
    path = folder / name
    remedy = f"run: viewmill verify {folder}{' --repair' if name == 'manifest.bin' else ''}"
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing, though dataset.json lists it; {remedy}") from error
    if found != expected:
        raise ShardError(f"{path}: {found} bytes, dataset.json says {expected}; {remedy}")
