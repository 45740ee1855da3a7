"""A folder of images as a source: every file below it, in an order that no file system decides."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, Place


def list_folder(source: Path, class_level: int | None) -> Listing:
    """All inputs below a folder, sorted by the bytes of their paths.

    The class is the path of the folder that holds an image, or the folder at `class_level`.

    Links are followed. What is neither a file nor a folder, a link to nowhere, a folder inside itself and an
    unreadable folder are inputs with a fault, so that nothing is left out in silence.

    Raises:
        ConvertError: there is no such folder, or no regular file in it.
    """
    if not source.exists():
        raise ConvertError(f"{source}: no such folder; give the folder that holds the images")
    if not source.is_dir():
        raise ConvertError(f"{source}: not a folder; give the folder that holds the images")
    files: list[_File] = []
    _scan_folder(source, "", frozenset(), files)
    if all(file.fault for file in files):
        raise ConvertError(f"{source}: no regular file in this folder; give the folder that holds the images")
    files.sort(key=lambda file: os.fsencode(file.path))
    return Listing(source, [_input(file, class_level) for file in files])


def _input(file: "_File", class_level: int | None) -> Input:
    place = Place(file.path, 0, file.size, file.size, file.mtime_ns)
    return Input(file.path, key_of_source(file.path), _class_of(file.path, class_level), place, file.fault)


def _class_of(path: str, class_level: int | None) -> str | None:
    folders = path.split("/")[:-1]
    if class_level is None:
        return "/".join(folders) or None
    return folders[class_level - 1] if 1 <= class_level <= len(folders) else None


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int
    fault: str | None = None


def _scan_folder(folder: Path, prefix: str, above: frozenset[tuple[int, int]], files: list[_File]) -> None:
    """Appends the inputs below `folder`; `above` identifies the folders on the way to it."""
    identity = _identity(folder)
    if identity in above:
        files.append(_File(prefix.rstrip("/"), 0, 0, "not a regular file: a link to a folder above it"))
        return
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        if not prefix:
            raise ConvertError(
                f"{folder}: cannot be listed ({error.strerror}); check its permissions"
            ) from error
        files.append(_File(prefix.rstrip("/"), 0, 0, f"unreadable folder: {error.strerror}"))
        return
    for entry in found:
        if entry.is_dir():
            _scan_folder(folder / entry.name, f"{prefix}{entry.name}/", above | {identity}, files)
        else:
            files.append(_file(entry, prefix + entry.name))


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _file(entry: "os.DirEntry[str]", path: str) -> _File:
    try:
        status = entry.stat()
    except OSError as error:
        return _File(path, 0, 0, f"unreadable: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return _File(path, 0, 0, "not a regular file: a pipe, socket or device")
    return _File(path, status.st_size, status.st_mtime_ns)
