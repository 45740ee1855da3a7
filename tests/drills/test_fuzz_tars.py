"""Mutated tars as a source: a one-line error that names the tar, or a data set that accounts for everything.

What a mutated tar may become is judged by a reader of its own below, which shares no code with the source's:

1. An error is always allowed, except where only the bytes of plain members changed: there the listing is the
   one of the whole tar.
2. A tar that is accepted has, by the independent reader, a right header wherever one is due, and nothing but
   zeros after the end mark; so no byte of it lies outside a member, and nothing that stood after the damage
   was passed over in silence.
3. The inputs are exactly the members that this reader finds, at the same bytes, less folders and the notes of
   images. (Damage that leaves a right tar, as a cut out of exactly one member, cannot be told from a tar that
   was written so.)
"""

import io
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.inputs import Input
from viewmill.shards.sources.tars import list_tars

from tests.drills.mutations import KINDS, edited_length, extreme
from tests.shards.pictures import encoded, picture

NOTES = (".cls", ".json", ".txt", ".caption", ".url", ".key", ".id")
FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
_BYTES_KINDS = tuple(kind for kind in KINDS if kind not in (extreme, edited_length))


class Found(NamedTuple):
    """A member by the independent reader: name, first byte, size, whether it is a plain file."""

    name: str
    offset: int
    size: int
    plain: bool


class NotATar(Exception):
    """The independent reader found no right header where one is due, or bytes after the end."""


def members_of(data: bytes, begin: int, end: int, nested: bool) -> list[Found]:
    """Every member but folders, of tars inside the tar too, header by header."""
    found: list[Found] = []
    at, long_name = begin, None
    while any(header := data[at : min(at + 512, end)]):
        kind, size = checked(header)
        # By POSIX a link, device, folder or pipe has no data, whatever its size says.
        first, at = at + 512, at + 512 + (0 if kind in b"123456" else (size + 511) // 512 * 512)
        if kind in b"xL":
            long_name = name_in(kind, data[first : first + size], long_name)
        if kind in b"xLKg":
            continue
        name = long_name if long_name is not None else header_name(header)
        long_name = None
        if kind in b"0\0" and first + size > end:
            raise NotATar(f"member at {first} ends after the tar")
        if kind in b"0\0" and not nested and name.lower().endswith(b".tar"):
            found += members_of(data, first, first + size, nested=True)
        elif kind not in b"5":
            found.append(Found(name.decode("utf-8", "replace"), first, size, kind in b"0\0"))
    if len(header) < 512 or any(data[at:end]):
        raise NotATar(f"no end at {at}")
    return found


def checked(header: bytes) -> tuple[bytes, int]:
    if len(header) < 512:
        raise NotATar("a cut header")
    if sum(header) - sum(header[148:156]) + 8 * 32 != number(header[148:156]):
        raise NotATar("a wrong check sum")
    return header[156:157], number(header[124:136])


def number(field: bytes) -> int:
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", text):
        raise NotATar(f"{field!r} is no octal number")
    return int(text or b"0", 8)


def header_name(header: bytes) -> bytes:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix and header[257:263] == b"ustar\0" else name


def name_in(kind: bytes, record: bytes, before: bytes | None) -> bytes | None:
    if kind == b"L":
        return record.partition(b"\0")[0]
    path = re.search(rb"\d+ path=(.*)\n", record)
    return path[1] if path else before


def whole_tar(rng: np.random.Generator, nested: bool = False) -> bytes:
    """Images with and without classes and captions, long names, folders, text; some are tars of tars."""
    buffer = io.BytesIO()
    file_format = list(FORMATS.values())[rng.integers(len(FORMATS))]
    with tarfile.open(fileobj=buffer, mode="w", format=file_format) as archive:
        for row in range(int(rng.integers(2, 9))):
            stem = f"{'d' * int(rng.choice([1, 60]))}/{'n' * int(rng.choice([3, 70]))}{row:03d}"
            if not nested and rng.random() < 0.15:
                add(archive, f"n{row:03d}.tar", whole_tar(rng, nested=True))
                continue
            if rng.random() < 0.2:
                archive.addfile(folder_entry(f"folder{row}"))
            add(archive, f"{stem}.jpg", encoded(picture(int(rng.integers(9))), "JPEG"))
            if rng.random() < 0.5:
                add(archive, f"{stem}.cls", b"%d" % row)
            if rng.random() < 0.2:
                add(archive, f"{row}.npy", rng.bytes(100))
    return buffer.getvalue()


def folder_entry(name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = tarfile.DIRTYPE
    return entry


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def damaged_tar(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """(a whole tar, the same after damage): anywhere, in a header, to whole blocks, in members only."""
    whole, other = whole_tar(rng), whole_tar(rng)
    way = rng.integers(5)
    if way == 0:
        return whole, _BYTES_KINDS[rng.integers(len(_BYTES_KINDS))](whole, other, rng) or b"\0"
    if way == 1:
        return whole, in_blocks(whole, other, rng)
    if way == 2:
        return whole, in_a_header(whole, rng, right_sum=False)
    if way == 3:
        return whole, in_a_header(whole, rng, right_sum=True)
    return whole, in_a_member(whole, rng)


def in_blocks(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Runs of blocks zeroed, taken out, doubled, cut off or put in: what leaves headers in their places."""
    used = len(data.rstrip(b"\0")) // 512 + 2
    first, length = 512 * int(rng.integers(used)), 512 * int(rng.integers(1, 6))
    last = first + length
    strange = other[:length] if rng.random() < 0.5 else bytes(length)
    return [
        data[:first] + bytes(len(data[first:last])) + data[last:],
        data[:first] + data[last:],
        data[:last] + data[first:last] + data[last:],
        data[:first] + strange + data[first:],
        data[:first],
        data + other,
    ][rng.integers(6)] or b"\0"


def in_a_header(data: bytes, rng: np.random.Generator, right_sum: bool) -> bytes:
    """A byte or a field of some header changed; with right_sum, its check sum too, as hostile hands would."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        at = archive.getmembers()[rng.integers(len(archive.getmembers()))].offset
    header = bytearray(data[at : at + 512])
    if rng.random() < 0.4:
        header[124:136] = sizes(rng)
    elif rng.random() < 0.5:
        header[156] = b"0125gxLKSVMZ\0"[rng.integers(13)]
    else:
        place = int(rng.integers(345))
        header[place] ^= 1 << int(rng.integers(8))
    if right_sum:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return data[:at] + bytes(header) + data[at + 512 :]


def sizes(rng: np.random.Generator) -> bytes:
    """A size's field: small, of other members, huge, negative, or no number."""
    value = int(rng.choice([0, 1, 511, 512, 513, 1024, 2048, 5000, 10**6, -1, -512, -1024, -4096, 2**62]))
    if rng.random() < 0.1:
        return rng.bytes(12)
    if 0 <= value < 8**11:
        return b"%011o\0" % value
    return (b"\xff" if value < 0 else b"\x80") + (value % 2**88).to_bytes(11, "big")


def in_a_member(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes of a plain member that is no tar changed, all else as it was."""
    found = [m for m in members_of(data, 0, len(data), nested=False) if m.size and not is_note(m)]
    member = found[rng.integers(len(found))]
    at = member.offset + int(rng.integers(member.size))
    length = int(rng.integers(1, member.offset + member.size - at + 1))
    return data[:at] + rng.bytes(length) + data[at + length :]


def is_note(member: Found) -> bool:
    return member.plain and member.name.lower().endswith(NOTES)


def drill(folder: Path, number: int) -> str:
    """What became of a mutated tar: 'refused', or 'converted' with everything accounted for."""
    rng = np.random.default_rng((12, number))
    whole, data = damaged_tar(rng)
    source = folder / f"{number}.tar"
    source.write_bytes(data)
    refusal = None
    try:
        inputs = list_tars(source).inputs
        report = convert(source, folder / f"{number}")
    except (ConvertError, RuntimeError) as error:
        refusal = error
    if refusal is not None:
        check_refusal(refusal, source, only_members_changed(whole, data))
        return "refused"
    check_listing(inputs, members_of(data, 0, len(data), nested=False))
    assert len(inputs) == report.inputs == report.samples + report.quarantined
    with Dataset.open(folder / f"{number}") as dataset:
        assert len(dataset.read(range(dataset.num_samples))) == report.samples
    return "converted"


def check_refusal(refusal: Exception, source: Path, tar_is_right: bool) -> None:
    assert type(refusal) in (ConvertError, RuntimeError)
    assert str(source) in str(refusal)
    assert "\n" not in str(refusal)
    # A tar with two images, and both of them damaged, is refused although it is a right one.
    assert not tar_is_right or "is a usable image" in str(refusal)


def check_listing(inputs: list[Input], found: list[Found]) -> None:
    listed = [(one.place.offset, one.place.size) for one in inputs]
    notes = {(one.offset, one.size) for one in found if is_note(one)}
    others = {(one.offset, one.size if one.plain else 0) for one in found if not is_note(one)}
    assert len(listed) == len(set(listed))
    assert others <= set(listed) <= others | notes


def only_members_changed(whole: bytes, data: bytes) -> bool:
    """Whether all damage lies within plain members, so that the tar is a right one with the same listing."""
    if len(whole) != len(data):
        return False
    changed = np.flatnonzero(np.frombuffer(whole, np.uint8) != np.frombuffer(data, np.uint8))
    inside = np.zeros(len(whole), bool)
    for member in members_of(whole, 0, len(whole), nested=False):
        inside[member.offset : member.offset + member.size] = not is_note(member)
    return bool(inside[changed].all())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_mutated_tars_are_refused_or_accounted_for(tmp_path: Path) -> None:
    outcomes = [drill(tmp_path, number) for number in range(100)]
    assert min(outcomes.count("refused"), outcomes.count("converted")) >= 20


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(10))
def test_many_mutated_tars_are_refused_or_accounted_for(tmp_path: Path, part: int) -> None:
    for number in range(100 * (part + 1), 100 * (part + 2)):
        drill(tmp_path, number)


@pytest.mark.slow
def test_a_tar_cut_at_every_block_is_an_error_until_its_last_member_is_whole(tmp_path: Path) -> None:
    whole = whole_tar(np.random.default_rng(3))
    end = max(member.offset + member.size for member in members_of(whole, 0, len(whole), nested=False))
    for length in range(1, end, 256):
        (tmp_path / "t.tar").write_bytes(whole[:length])
        with pytest.raises(ConvertError):
            list_tars(tmp_path / "t.tar")
