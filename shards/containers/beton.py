"""FFCV's file format, version 2, with one RGB image and one label a sample.

A file is a header, two descriptors of fields, a table of samples, the images, and a table of their places.
FFCV reads in pages, so no image crosses a multiple of the page size. Its own writer pads; here images begin
right after the tables, and the last page ends with its last image. Each image is kept off the multiples of
the least power of two that holds it, so one page size fits all, however late it is known.
"""

from typing import BinaryIO, NamedTuple

import numpy as np
from viewmill.shards.errors import ShardError

VERSION = 2
JPEG, RAW = 0, 1  # the modes of an image
MAX_SIDE = 65_535
LEAST_PAGE = 8 << 20  # FFCV's default
MAX_PAGE = 1 << 31
ALIGNMENT = 4096  # of the first image
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("allocations", "<u8"),
    ]
)
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
# 'padding' is what alignment leaves before a number of 8 bytes.
SAMPLE = np.dtype(
    [
        ("mode", "u1"),
        ("width", "<u2"),
        ("height", "<u2"),
        ("offset", "<u8"),
        ("padding", "V3"),
        ("label", "<i8"),
    ]
)
ALLOCATION = np.dtype([("sample", "<u8"), ("offset", "<u8"), ("size", "<u8")])
_INT, _RGB_IMAGE = 1, 2
FIELDS = np.array([(_RGB_IMAGE, b"image", bytes(1024)), (_INT, b"label", bytes(1024))], FIELD)
TABLE_START = HEADER.itemsize + FIELDS.nbytes


class BetonWriter:
    """Writes samples one after another; the same samples and capacity give the same bytes on any machine."""

    def __init__(self, file: BinaryIO, capacity: int) -> None:
        """A new file; `capacity` samples at most will follow."""
        self._file = file
        self._capacity = capacity
        self._samples: list[tuple[int, int, int, int, bytes, int]] = []
        self._allocations: list[tuple[int, int, int]] = []
        self._page_size = LEAST_PAGE
        self._position = _aligned(TABLE_START + capacity * SAMPLE.itemsize, ALIGNMENT)
        file.write(bytes(self._position))

    def add(self, data: bytes, *, raw: bool, width: int, height: int, label: int) -> int:
        """Appends an image, JPEG bytes or rows of RGB pixels; returns the offset of its first byte.

        Raises:
            ValueError: more than the capacity, a side that the format cannot state, or too many bytes.
        """
        if len(self._samples) == self._capacity:
            raise ValueError(f"the file was begun for {self._capacity} samples")
        if max(width, height) > MAX_SIDE or len(data) > MAX_PAGE:
            raise ValueError(f"{width}x{height} and {len(data)} bytes do not fit into FFCV's format")
        offset = self._place_of(len(data))
        self._file.write(bytes(offset - self._position))
        self._file.write(data)
        self._allocations.append((len(self._samples), offset, len(data)))
        self._samples.append((RAW if raw else JPEG, width, height, offset, b"", label))
        self._position = offset + len(data)
        return offset

    def finish(self) -> int:
        """Writes the tables and the header; returns the file's bytes."""
        start = self._position
        self._file.write(np.array(self._allocations, ALLOCATION).tobytes())
        header = np.array([(VERSION, len(FIELDS), self._page_size, len(self._samples), start)], HEADER)
        self._file.seek(0)
        self._file.write(header.tobytes() + FIELDS.tobytes() + np.array(self._samples, SAMPLE).tobytes())
        return start + len(self._allocations) * ALLOCATION.itemsize

    def _place_of(self, size: int) -> int:
        """The next offset from which so many bytes cross no page, of whatever size the pages become."""
        page = max(LEAST_PAGE, 1 << max(size - 1, 0).bit_length())
        self._page_size = max(self._page_size, page)
        crosses = self._position // page != (self._position + size - 1) // page
        return _aligned(self._position, page) if crosses else self._position


class BetonTables(NamedTuple):
    """What a file says of itself: (N,) SAMPLE and (N,) ALLOCATION rows, in the order of the samples."""

    page_size: int
    samples: np.ndarray
    allocations: np.ndarray


def read_tables(file: BinaryIO, shard: str) -> BetonTables:
    """The tables of a file that `BetonWriter` may have written; every entry lies inside the file.

    Raises:
        ShardError: another version or other fields, tables cut short or outside the file, images that
            overlap, lie outside their region or cross a page; the message names the shard.
    """
    file.seek(0, 2)
    end = file.tell()
    header = _rows(file, HEADER, 0, 1, end, shard)[0]
    if (header["version"], header["num_fields"]) != (VERSION, len(FIELDS)):
        raise ShardError(
            f"{shard}: FFCV version {header['version']} with {header['num_fields']} fields, "
            f"expected version {VERSION} with {len(FIELDS)}"
        )
    if _rows(file, FIELD, HEADER.itemsize, len(FIELDS), end, shard).tobytes() != FIELDS.tobytes():
        raise ShardError(f"{shard}: its fields are not one RGB image and one label")
    count, start = int(header["num_samples"]), int(header["allocations"])
    samples = _rows(file, SAMPLE, TABLE_START, count, end, shard)
    allocations = _rows(file, ALLOCATION, start, count, end, shard)
    if start + allocations.nbytes != end:
        raise ShardError(f"{shard}: {end} bytes, and its tables end at {start + allocations.nbytes}")
    tables = BetonTables(int(header["page_size"]), samples, allocations)
    _check_places(tables, TABLE_START + samples.nbytes, start, shard)
    return tables


def _rows(file: BinaryIO, row: np.dtype, offset: int, count: int, end: int, shard: str) -> np.ndarray:
    size = count * row.itemsize
    if offset + size > end:
        raise ShardError(f"{shard}: cut short, or damaged: {size} bytes of a table from byte {offset}")
    file.seek(offset)
    return np.frombuffer(file.read(size), row)


def _check_places(tables: BetonTables, begin: int, end: int, shard: str) -> None:
    """Images lie in order between the tables, each where both tables say, and on one page."""
    page, rows = tables.page_size, tables.allocations
    if page < LEAST_PAGE or page & (page - 1):
        raise ShardError(f"{shard}: a page size of {page}, which is no power of two from {LEAST_PAGE} on")
    limit = np.uint64(end)
    offsets, sizes = rows["offset"], rows["size"]
    inside = (offsets >= begin) & (offsets < limit) & (sizes > 0) & (sizes <= limit)
    last = offsets + sizes - np.uint64(1)  # cannot overflow where the tests before it hold
    good = inside & (last < limit) & (offsets // np.uint64(page) == last // np.uint64(page))
    good &= (rows["sample"] == np.arange(len(rows))) & (tables.samples["offset"] == offsets)
    good[1:] &= offsets[1:] > last[:-1]
    if not good.all():
        sample = int(np.argmin(good))
        raise ShardError(f"{shard}: sample {sample} of the shard has no place of its own in the file")


def _aligned(position: int, size: int) -> int:
    return -(-position // size) * size
