"""FFCV's `.beton` file, version 2, of an image and a label a sample: written, and walked with our own checks.

A header, two field descriptors, a row of metadata a sample, zeros up to a page, pages of image bytes, and the
allocation table; all numbers little-endian. No image crosses a page. Source: the ffcv 1.0.2 package (`types`,
`writer`, `memory_allocator`, `fields`); tests compare the files with those that FFCV writes itself.
"""

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from viewmill.shards.durable import Writeback, sha256_of_open
from viewmill.shards.errors import ShardError
from viewmill.shards.jpeg_header import plain_jpeg_header

VERSION = 2
PAGE_BYTES = 1 << 23  # FFCV's default; a larger image makes the pages of its file larger
MAX_PAGE_BYTES = 1 << 31  # a power of two that fits the header's 32 bits
MAX_SIDE = 65_535  # widths and heights have 16 bits
JPEG, RAW = 0, 1  # the modes of an image
_HEADER = struct.Struct("<HHIQQ")  # version, fields, bytes of a page, samples, offset of the allocation table
_FIELD = struct.Struct("<B16s1024x")  # type, name; an image and a label take no arguments
_FIELDS = _FIELD.pack(2, b"image") + _FIELD.pack(1, b"label")
_METADATA_AT = _HEADER.size + len(_FIELDS)
_METADATA = np.dtype(
    [
        ("mode", "u1"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("offset", "<u8"),
        ("zeros", "u1", (3,)),  # FFCV aligns the label
        ("label", "<i8"),
    ]
)
_ALLOCATION = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
SAMPLE = np.dtype(
    [
        ("offset", "<i8"),
        ("size", "<i8"),
        ("raw", "?"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("label", "<i8"),
    ]
)
_JPEG_BEGINS = b"\xff\xd8\xff"
_BLOCK = 1 << 20
_ZEROS = bytes(_BLOCK)


class StoredImage(NamedTuple):
    """An image as it lies in a beton: a JPEG, or raw pixels row by row."""

    data: memoryview
    width: int
    height: int

    @property
    def raw(self) -> bool:
        """Whether the bytes are pixels."""
        return is_raw(len(self.data), self.width, self.height)


@dataclass(frozen=True)
class BetonSummary:
    """What dataset.json needs to know of a finished file."""

    bytes: int
    sha256: str


class BetonWriter:
    """Writes images one after another; the same images and capacity give the same bytes on any machine.

    Only the tables are held in memory, 56 bytes a sample. Zeros between images are left as holes.

    Args:
        file: new, seekable, open for reading and writing.
        capacity: most samples that will be added; room for their metadata is left before the first page.
    """

    def __init__(self, file: BinaryIO, capacity: int) -> None:
        self._file = file
        self._capacity = capacity
        self._page = PAGE_BYTES
        self._position = _aligned(_METADATA_AT + capacity * _METADATA.itemsize, self._page)
        self._file.seek(self._position)
        self._writeback = Writeback(file)
        self._columns = {name: array("q") for name in ("offset", "size", "mode", "width", "height", "label")}

    def add(self, data: bytes | memoryview, *, width: int, height: int, label: int) -> int:
        """Appends an image and returns the offset of its first byte.

        Args:
            data: raw pixels, (height, width, 3) uint8, where they are 3 * width * height bytes; else a JPEG.

        Raises:
            ValueError: sides that the format has no room for, no byte, or more samples than the capacity.
        """
        size = len(data)
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and 0 < size <= MAX_PAGE_BYTES):
            raise ValueError(f"a beton has no room for {width}x{height} pixels in {size} bytes")
        if len(self._columns["size"]) == self._capacity:
            raise ValueError(f"a beton made for {self._capacity} samples is full")
        while self._page < size:  # an image within a small page is within a larger one too
            self._page *= 2
        room = self._page - self._position % self._page
        if size > room:
            self._position += room
            self._file.seek(self._position)
        offset = self._position
        self._file.write(data)
        self._position += size
        self._writeback.reaches(self._position)
        mode = RAW if is_raw(size, width, height) else JPEG
        for column, value in zip(
            self._columns.values(), (offset, size, mode, width, height, label), strict=True
        ):
            column.append(value)
        return offset

    def finish(self) -> BetonSummary:
        """Writes the tables; the file itself is the caller's to flush and close."""
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        count = len(columns["size"])
        metadata, allocations = np.zeros(count, _METADATA), np.zeros(count, _ALLOCATION)
        for name in ("mode", "width", "height", "offset", "label"):
            metadata[name] = columns[name]
        allocations["sample"] = np.arange(count)
        allocations["offset"], allocations["size"] = columns["offset"], columns["size"]
        table = _aligned(self._position, self._page)
        self._file.truncate(table)  # longer: the last page is whole even where it has no table after it
        self._file.seek(table)
        self._file.write(allocations.tobytes())
        self._file.seek(0)
        self._file.write(_HEADER.pack(VERSION, 2, self._page, count, table) + _FIELDS + metadata.tobytes())
        # Not while writing: the header, which comes first, is known last.
        return BetonSummary(table + allocations.nbytes, sha256_of_open(self._file))


def is_raw(size: int, width: int, height: int) -> bool:
    """Whether stored bytes are raw pixels: no JPEG is stored whose size would say the same."""
    return width > 0 and height > 0 and size == 3 * width * height


def image_file(data: bytes, width: int, height: int) -> bytes:
    """Stored bytes as an image that any decoder reads: a JPEG as it is, raw pixels behind a PPM header.

    Raises:
        ValueError: they can be neither, so the width or height is not the one that was written.
    """
    if is_raw(len(data), width, height):
        if spells_jpeg(data):
            raise ValueError(f"a JPEG, not the pixels of {width}x{height}")
        return b"P6\n%d %d\n255\n" % (width, height) + data
    if not data.startswith(_JPEG_BEGINS):
        raise ValueError(f"neither a JPEG nor the pixels of {width}x{height}")
    return data


def spells_jpeg(pixels: bytes | memoryview) -> bool:
    """Whether raw pixels happen to be the bytes of a JPEG; such an image is not stored."""
    return pixels[: len(_JPEG_BEGINS)] == _JPEG_BEGINS and plain_jpeg_header(pixels) is not None


def walk(file: BinaryIO, shard: str) -> np.ndarray:
    """The samples of a beton, checked to be what `BetonWriter` writes whatever the images are: (n,) `SAMPLE`.

    Every byte outside the images is compared, except widths, heights and labels, which the manifest knows.

    Args:
        file: the shard, open for reading and seekable.
        shard: its name, for errors.

    Raises:
        ShardError: a cut file, another version or field, tables that contradict each other or point outside,
            images that overlap or cross a page, bytes between them.
    """
    end = file.seek(0, 2)
    page, count, table = _checked_header(file, shard, end)
    metadata = np.frombuffer(_read(file, _METADATA_AT, count * _METADATA.itemsize), _METADATA)
    allocations = np.frombuffer(_read(file, table, count * _ALLOCATION.itemsize), _ALLOCATION)
    metadata_end = _METADATA_AT + metadata.nbytes
    _refuse(
        (allocations["sample"] != np.arange(count)) | (allocations["offset"] != metadata["offset"]),
        f"{shard}: the allocation table and the metadata differ at sample",
    )
    inside = (allocations["offset"] <= table) & (allocations["size"] <= table) & (allocations["size"] > 0)
    _refuse(~inside, f"{shard}: the tables point outside the pages at sample")
    offsets, sizes = allocations["offset"].astype(np.int64), allocations["size"].astype(np.int64)
    ends = offsets + sizes
    gaps_from = np.concatenate([[metadata_end], ends])
    gaps_to = np.concatenate([offsets, [table]])
    _refuse(np.diff(gaps_to) < sizes, f"{shard}: an image overlaps the next, or the table, at sample")
    if gaps_to[0] < metadata_end:
        raise ShardError(f"{shard}: the first image lies in the metadata, at byte {gaps_to[0]}")
    _refuse(offsets // page != (ends - 1) // page, f"{shard}: an image crosses a page at sample")
    raw = sizes == 3 * metadata["width"].astype(np.int64) * metadata["height"]
    wrong_mode = metadata["mode"] != np.where(raw, RAW, JPEG)
    _refuse(wrong_mode | metadata["zeros"].any(axis=1), f"{shard}: the metadata are changed at sample")
    for begin, stop in zip(gaps_from.tolist(), gaps_to.tolist(), strict=True):
        _check_zeros(file, begin, stop, shard)
    found = np.zeros(count, SAMPLE)
    for name in ("width", "height", "label"):
        found[name] = metadata[name]
    found["offset"], found["size"], found["raw"] = offsets, sizes, raw
    return found


def _checked_header(file: BinaryIO, shard: str, end: int) -> tuple[int, int, int]:
    """Bytes of a page, number of samples, offset of the allocation table."""
    head = _read(file, 0, min(end, _METADATA_AT))
    if len(head) < _METADATA_AT:
        raise ShardError(f"{shard}: cut short at byte {len(head)}, within the header of a beton")
    version, _, page, count, table = _HEADER.unpack_from(head)
    if version != VERSION:
        raise ShardError(f"{shard}: a beton of version {version}, expected {VERSION}; or no beton at all")
    if head != head[: _HEADER.size] + _FIELDS or head[2:4] != b"\2\0":
        raise ShardError(f"{shard}: its fields are not one image and one label")
    if page < PAGE_BYTES or page > MAX_PAGE_BYTES or page & (page - 1):
        raise ShardError(f"{shard}: pages of {page} bytes, expected a power of two from {PAGE_BYTES} on")
    if table + count * _ALLOCATION.itemsize != end or table % page:
        raise ShardError(
            f"{shard}: {count} samples and a table at byte {table} do not fit {end} bytes; the file is cut"
        )
    if count < 1 or _METADATA_AT + count * _METADATA.itemsize > table:
        raise ShardError(f"{shard}: {count} samples do not fit the {table} bytes before the allocation table")
    return page, count, table


def _refuse(bad: np.ndarray, fault: str) -> None:
    if bad.any():
        raise ShardError(f"{fault} {int(bad.argmax())}")


def _check_zeros(file: BinaryIO, begin: int, end: int, shard: str) -> None:
    for at, block in _blocks(file, begin, end):
        if block != _ZEROS[: len(block)]:
            place = at + len(block) - len(block.lstrip(b"\0"))
            raise ShardError(f"{shard}: byte {place} belongs to no image and is not zero")


def _blocks(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    for at in range(begin, end, _BLOCK):
        yield at, _read(file, at, min(_BLOCK, end - at))


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    file.seek(offset)
    return file.read(size)


def _aligned(offset: int, page: int) -> int:
    return -(-offset // page) * page
