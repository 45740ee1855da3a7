"""Tars as a source: WebDataset shards, flat tars of images, and tars of tars; nothing is ever extracted.

A sample of a WebDataset shard is the members that share a name up to its first dot. The member that is an
image is the input, `.cls` its class; in a tar of tars (ImageNet's) the inner tar's name is the class.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from viewmill.shards.containers.tar import Member
from viewmill.shards.errors import ConvertError, StorageError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, Place, numbered_classes
from viewmill.shards.sources.suffixes import IMAGE_SUFFIXES
from viewmill.shards.storage.sources import is_there, located
from viewmill.shards.storage.tree import Tree, files_ending

_MAX_CLS_BYTES = 4096
_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20  # of an extended header: names, times, attributes
# Members that belong to a sample without being one.
_NOTES = (".cls", ".json", ".txt", ".caption", ".url", ".key", ".id")


class _Member(NamedTuple):
    name: str
    offset: int
    size: int
    inner: str | None  # name of the inner tar that holds it
    regular: bool
    text: str | None = None  # of a .cls


def list_tars(source: str | Path) -> Listing:
    """The images in one tar, or in every tar below a folder, by the tars' names and in the members' order.

    An input's path is TAR/MEMBER, TAR/INNER/MEMBER in a tar of tars. Notes that stand beside an image
    (`.cls`, `.json`, `.txt` and the like) are no inputs; whatever else is no image is one, and gets
    quarantined.

    Raises:
        ConvertError: no tar, a compressed or damaged one (with the byte), or two images of one sample.
    """
    tree, names = _tars_of(source)
    inputs: list[Input] = []
    for name in names:
        inputs += inputs_of_tar(tree, name)
    classes = {found.class_name for found in inputs if found.class_name is not None}
    return Listing(tree, inputs, numbered_classes(classes))


def _tars_of(source: str | Path) -> tuple[Tree, list[str]]:
    tree, file = located(source)
    if file is not None:
        return tree, [file]
    if not is_there(source):
        raise ConvertError(f"{source}: no such file or folder; give a tar or a folder of tars")
    names = files_ending(tree, ".tar")
    if not names:
        raise ConvertError(f"{source}: no tar below this folder; give a tar or a folder of tars")
    return tree, names


def members_of_tar(path: Path) -> list[Member]:
    """The regular files in a local tar of any writer, those of tars in it too, in their order.

    Raises:
        ConvertError: compressed, cut short or damaged.
    """
    with path.open("rb") as file:
        found = list(_members(file, str(path), 0, path.stat().st_size, None))
    return [
        Member("/".join(part for part in (one.inner, one.name) if part), one.offset, one.size)
        for one in found
        if one.regular
    ]


def inputs_of_tar(tree: Tree, name: str) -> list[Input]:
    """The inputs in one tar, in the members' order.

    Raises:
        ConvertError: as `list_tars`.
    """
    shown, state = tree.shown(name), tree.state(name)
    with tree.open(name) as file:
        members = list(_members(file, shown, 0, state.size, None))
    classes = _classes_of(members)
    stem = name[: -len(".tar")] if name.endswith(".tar") else name
    inputs: list[Input] = []
    first_image: dict[tuple[str | None, str], str] = {}
    pictured = {_sample(member) for member in members if not _is_note(member)}
    for member in members:
        sample = _sample(member)
        if _is_note(member) and sample in pictured:
            continue
        if member.name.lower().endswith(IMAGE_SUFFIXES):
            other = first_image.setdefault(sample, member.name)
            if other != member.name:
                raise ConvertError(
                    f"{shown}: {other!r} and {member.name!r} are two images of one sample; "
                    "one image a sample can be converted: take the others out of the tar"
                )
        place = Place(name, member.offset, member.size, *state)
        fault = None if member.regular else "not a regular file: a link, device or sparse file in the tar"
        folder = member.inner[: -len(".tar")] if member.inner else ""
        key = key_of_source("/".join(part for part in (stem, folder, member.name) if part))
        path_in_tar = "/".join(part for part in (name, member.inner, member.name) if part)
        inputs.append(Input(path_in_tar, key, classes.get(sample), place, fault))
    return inputs


def _is_note(member: _Member) -> bool:
    return member.regular and member.name.lower().endswith(_NOTES)


def _sample(member: _Member) -> tuple[str | None, str]:
    """What the members of one sample share: the tar and the name up to its first dot."""
    folder, base = posixpath.split(member.name)
    return member.inner, posixpath.join(folder, base.partition(".")[0])


def _classes_of(members: list[_Member]) -> dict[tuple[str | None, str], str]:
    """The class of each sample that has one: the text of its `.cls`, or the inner tar's name."""
    found: dict[tuple[str | None, str], str] = {}
    for member in members:
        sample = _sample(member)
        if member.inner is not None:
            found.setdefault(sample, posixpath.splitext(posixpath.basename(member.inner))[0])
        if member.text and member.text != "-1":
            found[sample] = member.text
    return found


def _members(file: BinaryIO, shown: str, begin: int, end: int, inner: str | None) -> Iterator[_Member]:
    """The members of the tar in bytes [begin, end), those of tars in it too; folders are left out.

    Raises:
        ConvertError: compressed, cut short or damaged; Python's tarfile alone would end in silence.
    """
    file.seek(begin)
    try:
        # "r:" refuses compressed ones
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(file)), mode="r:") as archive:
            for entry in archive:
                _refuse_size(shown, entry, end)
                if not entry.isdir():
                    yield from _expanded(file, shown, entry, inner)
            stopped = archive.offset
    except (ConvertError, StorageError, OSError, MemoryError):
        raise
    except Exception as error:  # tarfile raises whatever it likes on hostile headers
        text = _one_line(str(error)) or type(error).__name__
        raise ConvertError(
            f"{shown}: no uncompressed tar that can be read ({text}); uncompress it, or copy it again"
        ) from error
    _check_end(file, shown, stopped, end)


class _Headers:
    """A file as tarfile may read it: headers only, so that none can claim all memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header before byte {self.tell()} claims {size} bytes")
        return self._file.read(size)


def _refuse_size(shown: str, entry: tarfile.TarInfo, end: int) -> None:
    if entry.size < 0:  # tarfile would go back, and round for ever
        raise ConvertError(
            f"{shown}: the member before byte {entry.offset_data} claims {entry.size} bytes; copy it again"
        )
    if _stores_plainly(entry) and entry.offset_data + entry.size > end:
        raise ConvertError(
            f"{shown}: cut short within {entry.name!r} (from byte {entry.offset_data}); copy it again"
        )


def _stores_plainly(entry: tarfile.TarInfo) -> bool:
    """Whether a member's bytes stand in the tar as they are; those of a sparse file do not."""
    return entry.isreg() and not entry.issparse()


def _expanded(file: BinaryIO, shown: str, entry: tarfile.TarInfo, inner: str | None) -> Iterator[_Member]:
    plain = _stores_plainly(entry)
    if inner is None and plain and entry.name.lower().endswith(".tar"):
        last = entry.offset_data + entry.size
        yield from _members(file, f"{shown}: {_one_line(entry.name)}", entry.offset_data, last, entry.name)
        return
    size = entry.size if plain else 0
    name = entry.name.removeprefix("./")
    yield _Member(name, entry.offset_data, size, inner, plain, _text_of_class(file, entry, name, size))


def _text_of_class(file: BinaryIO, entry: tarfile.TarInfo, name: str, size: int) -> str | None:
    """The text of a `.cls`, read on the way past it: a remote tar is read once; None for other members."""
    if not name.lower().endswith(".cls") or not _stores_plainly(entry) or size > _MAX_CLS_BYTES:
        return None
    file.seek(entry.offset_data)
    return file.read(size).decode("utf-8", "replace").strip()


def _check_end(file: BinaryIO, shown: str, stopped: int, end: int) -> None:
    """Where tarfile stopped there must be the end mark, no damaged header, and nothing after it."""
    file.seek(stopped)
    block = file.read(min(_BLOCK, max(end - stopped, 0)))
    if len(block) < _BLOCK:
        raise ConvertError(
            f"{shown}: cut short at byte {stopped}, before the archive's end mark; copy it again"
        )
    if any(block):
        raise ConvertError(f"{shown}: no tar header at byte {stopped}, the file is damaged; copy it again")
    position = stopped + _BLOCK
    while rest := file.read(min(_MAX_HEADER_BYTES, end - position)):
        if any(rest):
            # Zeros over a header look like an end mark: what comes after them would be lost in silence.
            raise ConvertError(
                f"{shown}: the archive ends at byte {stopped}, and more follows; "
                "it is damaged (copy it again), or several joined into one (give each by itself)"
            )
        position += len(rest)


def _one_line(text: str) -> str:
    return repr(text)[1:-1]  # names may hold line breaks, and bytes that are no text
