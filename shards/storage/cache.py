"""The local cache of what was read from URLs: a file a range, least recently used ones go first.

- CACHE/ranges/ab/cdef...: bytes of one sample, named by the hash of their shard's SHA-256 and their place.
- CACHE/usage: how many bytes there are, as text; CACHE/lock: held while it changes.
- CACHE/datasets/SHA256/: manifests, see mirror.py; they come on top of the bound.

Any number of processes and threads of one machine may use a cache. Its files are not trusted: who reads
them checks them. A crash leaves at most files that are half written; these count, and go after an hour.
"""

import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from viewmill.shards.durable import TEMPORARY

FOLDER_VARIABLE, BYTES_VARIABLE = "VIEWMILL_CACHE", "VIEWMILL_CACHE_BYTES"
DEFAULT_BYTES = 8 << 30
_ABANDONED_S = 3600.0
_SLACK = 16  # an eviction frees a sixteenth more than it must, so that not every put looks through all files


class Cache:
    """Byte ranges by name, in a folder, never more than `max_bytes` of them.

    Args:
        folder: None is $VIEWMILL_CACHE, or viewmill in the user's cache folder.
        max_bytes: None is $VIEWMILL_CACHE_BYTES, or 8 GiB.

    Raises:
        ValueError: a bound that is no whole number above 0.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or _default_folder()
        self.max_bytes = _default_bytes() if max_bytes is None else max_bytes
        if self.max_bytes < 1:
            raise ValueError(f"the cache has at least 1 byte, got {self.max_bytes}")
        (self.folder / "ranges").mkdir(parents=True, exist_ok=True, mode=0o700)

    def has(self, name: str) -> bool:
        """Whether the range is there; it counts as used now."""
        try:
            os.utime(self._path(name))
        except FileNotFoundError:
            return False
        return True

    def get(self, name: str) -> bytes | None:
        """The range's bytes as they are on the disk, or None."""
        if not self.has(name):
            return None
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:  # evicted by another process a moment ago
            return None

    def put(self, name: str, data: bytes) -> None:
        """Keeps the range, unless it alone is larger than the cache.

        Raises:
            OSError: the folder cannot be written, or the disk is full.
        """
        path = self._path(name)
        if len(data) > self.max_bytes or path.exists():
            return
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(8)}")
        self._reserve(temporary, len(data))
        try:
            with temporary.open("r+b") as file:  # "wb" would make it empty first, and not be counted
                file.write(data)
            # Under the lock: who lists the files meanwhile could see it under neither of its names.
            with locked(self.folder / "lock"):
                temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def drop(self, name: str) -> None:
        """Forgets a range, which is damaged."""
        with locked(self.folder / "lock"):
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / "ranges" / digest[:2] / digest[2:]

    def _reserve(self, temporary: Path, size: int) -> None:
        """Makes room for `size` bytes, and takes it by a file of that size."""
        with locked(self.folder / "lock"):
            used = self._used()
            if used + size > self.max_bytes:
                used = self._evict(max(0, self.max_bytes - size - self.max_bytes // _SLACK))
            with temporary.open("xb") as file:
                file.truncate(size)  # so that whoever counts the files meanwhile counts it
            (self.folder / "usage").write_text(str(used + size))

    def _used(self) -> int:
        """Bytes in the cache; too many where ranges were dropped, until they are counted again."""
        try:
            text = (self.folder / "usage").read_text()
        except FileNotFoundError:
            text = ""
        return int(text) if text.isascii() and text.isdigit() else self._evict(self.max_bytes)

    def _evict(self, target: int) -> int:
        """Deletes what was not used for longest until `target` bytes are left; returns those left."""
        files = sorted(_files(self.folder / "ranges"))
        total = sum(size for _, size, _ in files)
        now = time.time()
        for used_s, size, path in files:
            is_temporary = TEMPORARY in path
            if now - used_s > _ABANDONED_S if is_temporary else total > target:
                Path(path).unlink(missing_ok=True)
                total -= size
        return total


def _files(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(last use, bytes, path) of every file of the cache."""
    for part in os.scandir(folder):
        for entry in os.scandir(part.path):
            try:
                status = entry.stat()
            except FileNotFoundError:  # put in place, or dropped, a moment ago
                continue
            yield status.st_mtime, status.st_size, entry.path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, against threads and processes of this machine."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _default_folder() -> Path:
    if os.environ.get(FOLDER_VARIABLE):
        return Path(os.environ[FOLDER_VARIABLE])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "viewmill"


def _default_bytes() -> int:
    text = os.environ.get(BYTES_VARIABLE, str(DEFAULT_BYTES))
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{BYTES_VARIABLE}={text}: expected a number of bytes") from None
