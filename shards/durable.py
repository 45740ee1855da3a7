"""Files that are whole or absent, even after a power cut: write aside, fsync, rename, fsync the folder."""

import ctypes
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"  # in the name of every file that is still being written
# Of Linux; elsewhere the fsync at the end does all of the writing.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_BEGIN_TO_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_WRITTEN_AT_ONCE = 4 << 20


@contextmanager
def written_whole(path: Path, *, sync_its_folder: bool = True) -> Iterator[BinaryIO]:
    """A new file to write and read; it takes the place of `path` if the block ends well, or else vanishes.

    sync_its_folder: False leaves it to the caller, who writes several files into one folder.
    """
    # An unpredictable name: a process that outlived its parent may still be writing the same file.
    temporary = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(8)}")
    try:
        with temporary.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_its_folder:
        sync_folder(path.parent)


class Writeback:
    """Has a file that grows written to its disk meanwhile, so that its fsync finds little to wait for.

    A hint, which takes nothing from what fsync promises: that still waits for all of it, and tells of errors.

    Args:
        file: new, written from its first byte on. One in memory has no disk, and is left alone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._begun = 0  # bytes that are on their way
        try:
            self._file = file.fileno()
        except io.UnsupportedOperation:
            self._file = -1

    def reaches(self, end: int) -> None:
        """The file's first `end` bytes stay as they are; some may be in the writer's buffer yet."""
        if end - self._begun < _WRITTEN_AT_ONCE or self._file < 0 or _sync_file_range is None:
            return
        start, size = ctypes.c_int64(self._begun), ctypes.c_int64(end - self._begun)
        _sync_file_range(self._file, start, size, _BEGIN_TO_WRITE)
        self._begun = end


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_at(file: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer only at the end of the file: a single call may give less."""
    data = os.pread(file, size, offset)
    while 0 < len(data) < size:
        more = os.pread(file, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def read_into(file: int, room: memoryview, offset: int) -> int:
    """Fills `room` from `offset`; how many bytes there were, fewer only at the end of the file."""
    num_read = os.preadv(file, [room], offset)
    while num_read < len(room):
        more = os.preadv(file, [room[num_read:]], offset + num_read)
        if not more:
            break
        num_read += more
    return num_read


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return sha256_of_open(file)


def sha256_of_open(file: BinaryIO) -> str:
    """SHA-256 of all bytes of an open file, in hexadecimal; leaves it at its end."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
