"""The source of a conversion: every file below a folder, in an order that no file system decides."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.errors import ConvertError
from viewmill.shards.images import format_of


class SourceFile(NamedTuple):
    """One input: its path below the source ('/' between folders), and its state when the plan was made.

    fault: why it cannot even be opened as a file, or None.
    """

    path: str
    size: int
    mtime_ns: int
    fault: str | None = None


def scan(source: Path) -> list[SourceFile]:
    """All inputs below a folder, sorted by the bytes of their paths.

    Links are followed. What is neither a file nor a folder, a link to nowhere, a folder inside itself and an
    unreadable folder are inputs with a fault, so that nothing is left out in silence.

    Raises:
        ConvertError: there is no such folder, or no regular file in it.
    """
    if not source.exists():
        raise ConvertError(f"{source}: no such folder; give the folder that holds the images")
    if not source.is_dir():
        raise ConvertError(f"{source}: not a folder; give the folder that holds the images")
    files: list[SourceFile] = []
    _scan_folder(source, "", frozenset(), files)
    if all(file.fault for file in files):
        raise ConvertError(f"{source}: no regular file in this folder; give the folder that holds the images")
    return sorted(files, key=lambda file: os.fsencode(file.path))


def _scan_folder(
    folder: Path, prefix: str, above: frozenset[tuple[int, int]], files: list[SourceFile]
) -> None:
    """Appends the inputs below `folder`; `above` identifies the folders on the way to it."""
    identity = _identity(folder)
    if identity in above:
        files.append(SourceFile(prefix.rstrip("/"), 0, 0, "not a regular file: a link to a folder above it"))
        return
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        if not prefix:
            raise ConvertError(
                f"{folder}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        files.append(SourceFile(prefix.rstrip("/"), 0, 0, f"unreadable folder: {error.strerror}"))
        return
    for entry in found:
        if entry.is_dir():
            _scan_folder(folder / entry.name, f"{prefix}{entry.name}/", above | {identity}, files)
        else:
            files.append(_file(entry, prefix + entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _file(entry: "os.DirEntry[str]", path: str) -> SourceFile:
    try:
        status = entry.stat()
    except OSError as error:
        return SourceFile(path, 0, 0, f"unreadable: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return SourceFile(path, 0, 0, "not a regular file: a pipe, socket or device")
    return SourceFile(path, status.st_size, status.st_mtime_ns)


def begins_like_an_image(source: Path, file: SourceFile) -> bool:
    """Whether the first bytes of an input are those of a known image format."""
    if file.fault:
        return False
    try:
        with (source / file.path).open("rb") as opened:
            return format_of(opened.read(16)) is not None
    except OSError:  # the conversion will meet it again, and record it
        return False
