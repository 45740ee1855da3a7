"""The manifest: one row a sample, in id order; and the Dataset that reads samples by it.

manifest.parquet is the whole table; manifest.bin mirrors its fixed-width columns for training, memory-mapped.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

import numpy as np
import xxhash
from viewmill.shards.containers.beton import StoredImage, image_file
from viewmill.shards.durable import sha256_of
from viewmill.shards.errors import ShardError
from viewmill.shards.images import MAX_BYTES, MAX_RAW_BYTES
from viewmill.shards.info import DataSetInfo, FileInfo, read_info
from viewmill.shards.manifest_table import ROWS_PER_GROUP, SCHEMA, checked_parquet, damage_named
from viewmill.shards.rows import RECORD as RECORD
from viewmill.shards.rows import Rows
from viewmill.shards.storage.cache import Cache
from viewmill.shards.storage.mirror import mirrored
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.remote_shards import RemoteShards
from viewmill.shards.storage.shard_files import Range, ShardFiles, Shards
from viewmill.shards.storage.sources import named_source

# No image guards its row's label, width and height. A manifest.bin up to this size, of 7 million samples, is
# hashed whenever it is opened; for a larger one `verify` answers.
HASHED_AT_OPEN = 256 << 20
_MAX_KEY_GROUPS = 4
_JPEG_BEGINS = b"\xff\xd8"


class Dataset:
    """A data set on disk or at a URL, read by offset; every image's hash is checked before it is given out.

    Safe to use from several threads. Close it, or use it as a context manager, to free its files.

    path: the folder of its manifest, in the cache where the data set is remote. shown: its path or URL.
    """

    def __init__(
        self, path: Path, info: DataSetInfo, rows: Rows, shards: Shards, tree: RemoteTree | None = None
    ) -> None:
        """Use `Dataset.open`."""
        self.path = path
        self.shown = str(path) if tree is None else tree.base
        self.info = info
        self._manifest = rows
        self._shards = shards
        self._tree = tree
        self._shard_bytes = np.array([shard.bytes for shard in info.shards], dtype=np.int64)
        self._lock = threading.Lock()
        self._keys: dict[int, list[str]] = {}
        self._keys_are_checked = False
        self._closed = False

    @classmethod
    def open(
        cls, path: str | Path, *, cache_folder: Path | None = None, cache_bytes: int | None = None
    ) -> "Dataset":
        """Opens a data set: dataset.json and the rows are checked, shards are there with their sizes.

        A manifest.bin over `HASHED_AT_OPEN` bytes is not read here, so that opening stays quick.

        Of a URL dataset.json and the manifest are fetched into the cache, once; its shards are looked at
        when they are read.

        Args:
            path: a folder or a URL.
            cache_folder, cache_bytes: of a URL, see `Cache`.

        Raises:
            FileNotFoundError: no data set at this path.
            ShardError: a file that is missing, damaged or of another size; the message names it.
            StorageError: the store at the URL does not answer; ValueError: a URL that is not read.
        """
        named = named_source(path)
        if isinstance(named, Path):
            return cls._open_local(named)
        tree, cache = RemoteTree(named), Cache(cache_folder, cache_bytes)
        folder, info = mirrored(tree, cache)
        return cls(folder, info, _rows(folder, info), RemoteShards(tree, info.shards, cache), tree)

    @classmethod
    def _open_local(cls, folder: Path) -> "Dataset":
        info = read_info(folder)
        for file in info.files:
            _check_size(folder, file.name, file.bytes)
        for shard in info.shards:
            _check_size(folder, shard.name, shard.bytes)
        return cls(
            folder, info, _rows(folder, info), ShardFiles(folder, [shard.name for shard in info.shards])
        )

    @property
    def is_remote(self) -> bool:
        """Whether its shards are at a URL, so that `prefetch` is of use."""
        return self._tree is not None

    @property
    def storage_counts(self) -> dict[str, int]:
        """What was asked of the store since it was opened, see `Counts`; empty for a local data set."""
        return {} if self._tree is None else self._tree.counts.as_dict()

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

    def stored_bytes(self, ids: Sequence[int] | np.ndarray) -> int:
        """How many bytes these images have in their shards, all together, as the manifest says."""
        return int(self._rows(ids)["size"].clip(0).sum(dtype=np.int64))

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """These images as files, in the order asked for, the stored bytes checked against their xxh64.

        Raw pixels of a beton come behind a header that makes them a PPM; all else is as it is stored.

        Raises:
            IndexError: an id outside the data set.
            ShardError: bytes that are missing or not those that were written.
        """
        rows = self._checked_rows(ids)
        ranges, hashes = _ranges_of(rows), rows["xxh64"].tolist()
        with closing(self._shards.read(ranges)) as found:
            stored = [
                self._checked(int(sample), wanted, xxh64, data)
                for sample, wanted, xxh64, data in zip(ids, ranges, hashes, found, strict=True)
            ]
        if self.kind != "ffcv":
            return stored
        return [
            self._image_file(int(sample), row, data)
            for sample, row, data in zip(ids, rows, stored, strict=True)
        ]

    def stored(
        self, ids: Sequence[int] | np.ndarray, read: Callable[[Sequence[Range]], Iterable[memoryview]]
    ) -> list[StoredImage]:
        """These images of a local data set of betons as they are stored, checked as `read` checks them.

        Args:
            ids: the samples, in any order.
            read: gives the bytes of ranges of the shards, fewer where a shard is cut short.

        Raises:
            As `read`.
        """
        rows = self._checked_rows(ids)
        ranges, found = _ranges_of(rows), []
        for sample, row, wanted, data in zip(ids, rows, ranges, read(ranges), strict=True):
            if not _is_intact(data, wanted, int(row["xxh64"])):
                raise self._damage(int(sample), wanted, int(row["xxh64"]), data)
            image = StoredImage(data, int(row["width"]), int(row["height"]))
            if image.raw == (bytes(data[:2]) == _JPEG_BEGINS):
                self._image_file(int(sample), row, bytes(data))  # which looks closer, and refuses most
            found.append(image)
        return found

    def prefetch(self, ids: Sequence[int] | np.ndarray) -> None:
        """Begins to fetch these samples, and nothing else, into the cache; does nothing for a local data set.

        Neighbours in a shard are fetched by one request. What fails, or has no place in a shard, is left for
        `read`, which says so.

        Raises:
            IndexError: an id outside the data set.
        """
        if not self.is_remote:
            return
        try:
            self._shards.prefetch(_ranges_of(self._checked_rows(ids)))
        except ShardError:
            return

    def close(self) -> None:
        """Closes the shards and the manifest; the data set cannot be read after it."""
        with self._lock:
            if not self._closed:
                self._manifest.close()
            self._closed = True
        self._shards.close()

    def __enter__(self) -> "Dataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rows(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        if self._closed:
            raise ValueError(f"{self.shown}: the data set is closed")
        wanted = np.asarray(ids, dtype=np.int64)
        if wanted.ndim != 1:
            raise ValueError(f"ids are one list of numbers, got shape {wanted.shape}")
        outside = wanted[(wanted < 0) | (wanted >= self.num_samples)]
        if outside.size:
            raise IndexError(f"{self.shown}: no sample {outside[0]}, ids go from 0 to {self.num_samples - 1}")
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
                f"({self.manifest[sample].item()}); "
                + (f"delete {self.path}" if self.is_remote else f"{self._remedy} --repair")
            )

    def _checked(self, sample: int, wanted: Range, expected: int, data: bytes) -> bytes:
        """The bytes, if they are those of the manifest; a damaged one in the cache is fetched once more."""
        if _is_intact(data, wanted, expected):
            return data
        if self.is_remote:
            data = self._shards.again(wanted) or b""
            if _is_intact(data, wanted, expected):
                return data
        raise self._damage(sample, wanted, expected, data)

    def _damage(self, sample: int, wanted: Range, expected: int, data: bytes | memoryview) -> ShardError:
        shard, offset, size = wanted
        found = xxhash.xxh64_intdigest(data)
        held = f"hash {found:016x}" if len(data) == size else f"only {len(data)} of {size} bytes"
        return ShardError(
            f"{self.shown}/{self.info.shards[shard].name}: sample '{self._key_for_error(sample)}' at byte "
            f"{offset} has {held}, the manifest says {expected:016x}; {self._remedy}"
        )

    def _image_file(self, sample: int, row: np.void, data: bytes) -> bytes:
        try:
            return image_file(data, int(row["width"]), int(row["height"]))
        except ValueError as error:
            raise ShardError(
                f"{self.path / 'manifest.bin'}: sample '{self._key_for_error(sample)}' is {error}; "
                f"{self._remedy}"
            ) from error

    @property
    def _remedy(self) -> str:
        return f"run: viewmill verify {self.path}" if self._tree is None else "copy it there again"

    def _key_for_error(self, sample: int) -> str:
        try:
            return self.keys([sample])[0]
        except (ShardError, OSError):  # the damage that is being reported may have reached the parquet too
            return f"id {sample}"

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
        if not self._keys_are_checked:
            _refuse_changed(self.path, self.info.file("manifest.parquet"))
            self._keys_are_checked = True
        with damage_named(path, f"row group {group}"), checked_parquet(path, SCHEMA) as parquet:
            keys = parquet.read_row_group(group, columns=["key"]).column("key").to_pylist()
        if len(keys) != expected:
            raise ShardError(
                f"{path}: row group {group} has {len(keys)} rows, expected {expected}; convert again"
            )
        return keys


def _ranges_of(rows: np.ndarray) -> list[Range]:
    columns = (rows[name].tolist() for name in Range._fields)
    return [Range(*numbers) for numbers in zip(*columns, strict=True)]


def _is_intact(data: bytes | memoryview, wanted: Range, expected: int) -> bool:
    return len(data) == wanted.size and xxhash.xxh64_intdigest(data) == expected


def _rows(folder: Path, info: DataSetInfo) -> Rows:
    if info.file("manifest.bin").bytes != info.num_samples * RECORD.itemsize:
        raise ShardError(
            f"{folder / 'manifest.bin'}: not {RECORD.itemsize} bytes for each of "
            f"{info.num_samples} samples; run: viewmill verify {folder} --repair"
        )
    _refuse_changed(folder, info.file("manifest.bin"))
    return Rows(folder / "manifest.bin")


def _refuse_changed(folder: Path, stated: FileInfo) -> None:
    """Raises ShardError where a file of the manifest, unless it is too large, is not what was written."""
    if stated.bytes <= HASHED_AT_OPEN and sha256_of(folder / stated.name) != stated.sha256:
        raise ShardError(
            f"{folder / stated.name}: its SHA-256 is not the one that dataset.json states; "
            f"run: viewmill verify {folder} --repair"
        )


def _check_size(folder: Path, name: str, expected: int) -> None:
    path = folder / name
    remedy = f"run: viewmill verify {folder}{' --repair' if name == 'manifest.bin' else ''}"
    try:
        found = path.stat().st_size
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing, though dataset.json lists it; {remedy}") from error
    if found != expected:
        raise ShardError(f"{path}: {found} bytes, dataset.json says {expected}; {remedy}")
