"""A folder of this machine as a tree."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from viewmill.shards.durable import read_into
from viewmill.shards.errors import ConvertError
from viewmill.shards.storage.faults import is_of_the_machine
from viewmill.shards.storage.tree import NOT_STATED, Changed, File, FileState, NoRegularFile

_UNKNOWN = FileState(0, 0)


class LocalTree(NamedTuple):
    """The files below a folder; an absolute path is taken as it is."""

    root: str

    @property
    def waits(self) -> bool:
        return False

    def shown(self, file: str) -> str:
        return self._path(file)

    def state(self, file: str) -> FileState:
        status = os.stat(self._path(file))  # noqa: PTH116 - a Path takes as long as the call
        if not stat.S_ISREG(status.st_mode):
            raise NoRegularFile(errno.EINVAL, "no regular file", self._path(file))
        return FileState(status.st_size, status.st_mtime_ns)

    def read(self, file: str, offset: int, size: int, planned: FileState) -> bytes:
        data = bytearray(size)
        self.read_into(file, offset, memoryview(data), planned)
        return bytes(data)

    def read_into(self, file: str, offset: int, room: memoryview, planned: FileState) -> None:
        path = self._path(file)
        try:
            # Not blocking: what was a file in the plan may be a pipe by now.
            opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                _refuse_changed(opened, planned)
                num_read = read_into(opened, room, offset)
            finally:
                os.close(opened)
        except OSError as error:
            error.filename = error.filename or path
            raise
        if num_read != len(room):
            raise Changed

    def peek(self, file: str, offset: int, size: int) -> bytes:
        try:
            with self.open(file) as opened:
                opened.seek(offset)
                return opened.read(size)
        except OSError as error:
            error.filename = error.filename or self._path(file)
            raise

    def open(self, file: str) -> BinaryIO:
        return Path(self._path(file)).open("rb")

    def files(self) -> list[File]:
        """As `Tree.files`; links are followed.

        What is neither a file nor a folder, a link to nowhere, a folder inside itself and an unreadable
        folder are files with a fault.

        Raises:
            NotADirectoryError: the root is a file; ConvertError: it cannot be listed.
        """
        found: list[File] = []
        _scan_folder(Path(self.root), "", frozenset(), found)
        return found

    def is_there(self) -> bool:
        try:
            with os.scandir(self.root) as entries:
                return next(entries, None) is not None
        except OSError:
            return False

    def names(self) -> set[str]:
        return set(os.listdir(self.root))  # noqa: PTH208 - names only

    def _path(self, file: str) -> str:
        # Not os.path.join, and still less a Path: they take as long as the system to open the file.
        return file if file.startswith("/") else f"{self.root}/{file}"


def _refuse_changed(opened: int, planned: FileState) -> None:
    status = os.fstat(opened)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    stamp = NOT_STATED if planned.stamp == NOT_STATED else status.st_mtime_ns
    if not stat.S_ISREG(status.st_mode) or (status.st_size, stamp) != planned:
        raise Changed


def _scan_folder(folder: Path, prefix: str, above: frozenset[tuple[int, int]], files: list[File]) -> None:
    """Appends the files below `folder`; `above` identifies the folders on the way to it."""
    identity = _identity(folder)
    if identity in above:
        fault = "not a regular file: a link to a folder above it"
        files.append(File(prefix.rstrip("/"), _UNKNOWN, fault))
        return
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        if not prefix and isinstance(error, NotADirectoryError):
            raise
        if not prefix:
            raise ConvertError(
                f"{folder}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        if is_of_the_machine(error):
            raise
        files.append(File(prefix.rstrip("/"), _UNKNOWN, f"unreadable folder: {error.strerror}"))
        return
    for entry in found:
        if entry.is_dir():
            _scan_folder(folder / entry.name, f"{prefix}{entry.name}/", above | {identity}, files)
        else:
            files.append(_file(entry, prefix + entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _file(entry: "os.DirEntry[str]", path: str) -> File:
    try:
        status = entry.stat()
    except OSError as error:
        if is_of_the_machine(error):
            raise
        return File(path, _UNKNOWN, f"unreadable: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return File(path, _UNKNOWN, "not a regular file: a pipe, socket or device")
    return File(path, FileState(status.st_size, status.st_mtime_ns))
