"""WebDataset tars and DALI's index of them: written with known offsets, walked with our own checks.

Nothing here extracts: a member is a name and a range of bytes, and its name is never a path.
"""

import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from viewmill.shards.containers.slabs import SlabFile
from viewmill.shards.errors import ShardError

BLOCK = 512
MAX_MEMBER_BYTES = 256_000_000
# Members that are joined before they are appended, and the most that is.
_SMALL_BYTES, _MOST_SMALL = 4096, 16_384
# A header without its name, size and checksum, and the sum of its bytes; the checksum counts as 8 spaces.
_USTAR_NAME, _USTAR_SIZE = 100, 8**11 - 1
_MODE_OWNER = b"0000644\0" + 2 * b"0000000\0"
_TIME = b"\0" + b"00000000000\0"
_REST = b"\0 0" + bytes(100) + b"ustar\x0000" + bytes(32 + 32 + 8 + 8 + 155 + 12)
_FIXED_SUM = sum(_MODE_OWNER + _TIME + _REST) + 7 * ord(" ")  # one space is in `_REST`
_WHITE_SPACE = re.compile(r"[ \t-\r]")  # what C++ streams part fields by
MAX_NAME_BYTES = 65_536  # three characters for each byte of a path, and Linux allows paths of 4096 bytes


class Member(NamedTuple):
    """A regular file in a tar: its bytes are [offset, offset + size) of the shard."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarSummary:
    """What dataset.json and the index need to know of a finished tar."""

    bytes: int
    sha256: str
    rows: tuple[tuple[str, int, int], ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """Its files, made out of their rows."""
        return tuple(map(Member._make, self.rows))


class TarWriter:
    """Writes regular files one after another; the same members give the same bytes on any machine.

    behind: a thread writes behind the caller: `finish` or `close` come before the file is closed.
    """

    def __init__(self, file: BinaryIO, *, behind: bool = False) -> None:
        self._slabs = SlabFile(file, behind=behind)
        self._small = b""  # what is appended with the next header: padding, small members
        self._members: list[tuple[str, int, int]] = []

    def rooms(self, sizes: Sequence[int]) -> list[memoryview]:
        """Where the next members' bytes may be put; what `add` gets of them, in their order, stays there.

        A member of a block at most may follow each of them.
        """
        self._flush()
        return self._slabs.rooms(sizes, BLOCK, [-size % BLOCK + 2 * BLOCK for size in sizes])

    def add(self, name: str, data: bytes | memoryview) -> int:
        """Appends a member and returns the offset of its first byte."""
        size = len(data)
        self._small += header_of(name, size)
        offset = self._slabs.position + len(self._small)
        self._members.append((name, offset, size))
        if size > _SMALL_BYTES or isinstance(data, memoryview):
            self._flush()
            self._slabs.append(data)
            self._small = bytes(-size % BLOCK)
        else:
            self._small += data + bytes(-size % BLOCK)
            if len(self._small) > _MOST_SMALL:
                self._flush()
        return offset

    def finish(self) -> TarSummary:
        """Ends the archive; the file itself is the caller's to flush and close."""
        self._small += bytes(2 * BLOCK)
        self._flush()
        size, sha256 = self._slabs.position, self._slabs.finish()
        return TarSummary(size, sha256, tuple(self._members))

    def _flush(self) -> None:
        self._slabs.append(self._small)
        self._small = b""

    def close(self) -> None:
        """Leaves the archive as it is; nothing is written to the file any more."""
        self._slabs.close()


def header_of(name: str, size: int) -> bytes:
    """The header of a regular file: mode 644, owner, group and time 0; the bytes of tarfile's PAX format.

    Source: POSIX.1-2008, pax, ustar interchange format.
    """
    if len(name) > _USTAR_NAME or not name.isascii() or size > _USTAR_SIZE:
        entry = tarfile.TarInfo(name)
        entry.size = size
        return entry.tobuf(tarfile.PAX_FORMAT)
    named, sized = name.encode(), b"%011o" % size
    # The low half of Adler-32 is 1 + the bytes' sum, exact for so few, and quicker than `sum`.
    checksum = _FIXED_SUM + (zlib.adler32(named + sized) & 0xFFFF) - 1
    return b"%b%b%b%b%06o%b" % (named.ljust(100, b"\0"), _MODE_OWNER, sized, _TIME, checksum, _REST)


def index_text(members: Sequence[tuple[str, int, int]]) -> str:
    """DALI's webdataset index, version 1.2: a count, then a line a sample of 'ext offset size name' groups.

    Members of one sample stand together and share the name up to the first dot of its last part. DALI asks
    for members by extension, so one without (and a hidden file) has no place in an index. White space parts
    the fields: it is escaped in a name, and a member with white space in its extension is left out too.
    Source: the wds2idx script that DALI installs; tests read shards with DALI's own reader.
    """
    lines: list[str] = []
    previous = None
    any_spaces = _WHITE_SPACE.search("/".join(name for name, _, _ in members)) is not None
    for name, offset, size in members:
        file = name.rfind("/") + 1
        dot = name.find(".", file)
        base, ext, shown = name[:dot], name[dot + 1 :], name
        if dot <= file or not ext:  # -1: no dot at all
            continue
        if any_spaces and _WHITE_SPACE.search(name):
            if _WHITE_SPACE.search(ext):
                continue
            shown = _WHITE_SPACE.sub(lambda found: f"%{ord(found[0]):02X}", name)
        part = f"{ext} {offset} {size} {shown}"
        if base == previous:
            lines[-1] += " " + part
        else:
            lines.append(part)
        previous = base
    return "\n".join([f"v1.2 {len(lines)}", *lines, ""])


def index_bytes(members: Sequence[tuple[str, int, int]]) -> bytes:
    """`index_text` as it is stored; bytes of a name that are no UTF-8 stay as they are."""
    return index_text(members).encode("utf-8", "surrogateescape")


def walk(file: BinaryIO, shard: str) -> Iterator[Member]:
    """The members of a tar, header by header, refusing whatever `TarWriter` does not write.

    Args:
        file: the shard, open for reading and seekable.
        shard: its name, for errors.

    Raises:
        ShardError: a header that is damaged, cut short, of a special file, or with an unsafe name; an archive
            without its end mark.
    """
    end = file.seek(0, 2)
    position = 0
    long_name = None
    while True:
        header = _block_at(file, position, shard)
        if not any(header):
            if any(_block_at(file, position + BLOCK, shard)) or position + 2 * BLOCK != end:
                raise ShardError(f"{shard}: bytes after the archive's end at byte {position}")
            return
        entry = _parse(header, position, shard)
        data = position + BLOCK
        position = data + entry.size + -entry.size % BLOCK
        if position > end:
            raise ShardError(f"{shard}: the member at byte {data - BLOCK} ends after the file's {end} bytes")
        if entry.type == tarfile.XHDTYPE:
            long_name = _long_name(file, data, entry.size, shard)
            continue
        yield Member(_safe(long_name or entry.name, data, shard), data, entry.size)
        long_name = None


def _block_at(file: BinaryIO, position: int, shard: str) -> bytes:
    file.seek(position)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise ShardError(f"{shard}: cut short at byte {position + len(block)}, before the archive's end mark")
    return block


def _parse(header: bytes, position: int, shard: str) -> tarfile.TarInfo:
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ShardError(f"{shard}: no tar header at byte {position}: {error}") from error
    # tarfile reads some of a checksum's bytes loosely; so no bit of a header is left unchecked.
    if header[148:156] != b"%06o\0 " % entry.chksum:
        raise ShardError(f"{shard}: the tar header at byte {position} was changed")
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.XHDTYPE):
        raise ShardError(f"{shard}: the member at byte {position} is no regular file (type {entry.type!r})")
    if not 0 <= entry.size <= MAX_MEMBER_BYTES:
        raise ShardError(f"{shard}: the member at byte {position} claims {entry.size} bytes")
    return entry


def _long_name(file: BinaryIO, offset: int, size: int, shard: str) -> str:
    """The name in a PAX extended header, which holds nothing else: one record 'LENGTH path=NAME\\n'."""
    if size > MAX_NAME_BYTES:
        raise ShardError(f"{shard}: the extended header at byte {offset} has {size} bytes")
    file.seek(offset)
    length, _, record = file.read(size).partition(b" ")
    whole = length.isdigit() and int(length) == size
    if not (whole and record.startswith(b"path=") and record.endswith(b"\n") and b"\n" not in record[:-1]):
        raise ShardError(f"{shard}: the extended header at byte {offset} is not a single path")
    return record[5:-1].decode("utf-8", "surrogateescape")


def _safe(name: str, offset: int, shard: str) -> str:
    folders = name.split("/")
    if not name.isascii() or not name.isprintable() or " " in name or ".." in folders or not folders[0]:
        raise ShardError(f"{shard}: the member at byte {offset} has an unsafe name {name!r}")
    return name
