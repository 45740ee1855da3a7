"""FFCV's container: what is written is walked, and what was changed is refused."""

import io
import struct
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from viewmill.shards.containers import beton
from viewmill.shards.containers.beton import BetonWriter, image_file, walk
from viewmill.shards.errors import ShardError

from tests.shards.pictures import encoded, noise, picture

PAGE = 4096  # small, so that a test can look at every byte
HEADER, FIELD, ROW, ALLOCATION = 24, 1041, 24, 24  # bytes
METADATA = HEADER + 2 * FIELD


class Image(NamedTuple):
    data: bytes
    width: int
    height: int
    label: int


JPEG = encoded(picture(1, 12, 16), "JPEG", quality=30)
IMAGES = [
    Image(picture(0, 9, 7).tobytes(), 7, 9, 3),
    Image(JPEG, 16, 12, -1),
    Image(noise(2, 33, 33).tobytes(), 33, 33, 0),  # the next page has room for it, this one has not
]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beton, "PAGE_BYTES", PAGE)


def written(images: list[Image], capacity: int | None = None) -> tuple[bytes, list[int]]:
    """The file's bytes, and the offset of each image."""
    file = io.BytesIO()
    writer = BetonWriter(file, len(images) if capacity is None else capacity)
    offsets = [writer.add(x.data, width=x.width, height=x.height, label=x.label) for x in images]
    assert writer.finish().bytes == len(file.getvalue())
    return file.getvalue(), offsets


def walked(data: bytes) -> np.ndarray:
    return walk(io.BytesIO(data), "s.beton")


def test_offsets_lead_to_the_bytes() -> None:
    data, offsets = written(IMAGES)
    assert [data[at : at + len(x.data)] for at, x in zip(offsets, IMAGES, strict=True)] == [
        x.data for x in IMAGES
    ]


def test_walking_finds_what_was_written() -> None:
    data, offsets = written(IMAGES)
    expected = [
        (at, len(x.data), raw, x.width, x.height, x.label)
        for at, x, raw in zip(offsets, IMAGES, (True, False, True), strict=True)
    ]
    assert walked(data).tolist() == expected


def test_images_begin_at_a_page_and_cross_none() -> None:
    _, offsets = written(IMAGES * 5)
    sizes = [len(x.data) for x in IMAGES * 5]
    assert offsets[0] == PAGE
    assert all(at // PAGE == (at + n - 1) // PAGE for at, n in zip(offsets, sizes, strict=True))


def test_an_image_larger_than_a_page_makes_the_pages_larger() -> None:
    large = Image(noise(3, 60, 60).tobytes(), 60, 60, 1)
    data, offsets = written([*IMAGES, large, *IMAGES])
    (page,) = struct.unpack_from("<I", data, 4)
    assert page == 16_384
    assert offsets[3] == page
    assert len(walked(data)) == 7


def test_samples_that_are_not_added_leave_no_trace_but_room() -> None:
    data, _ = written(IMAGES, capacity=1000)
    assert len(walked(data)) == 3
    assert written(IMAGES, capacity=3) == written(IMAGES, capacity=4)


def test_a_file_on_disk_has_the_hash_that_is_stated(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        writer = BetonWriter(file, 1)
        writer.add(JPEG, width=16, height=12, label=0)
        summary = writer.finish()
        assert summary.sha256 == beton.sha256_of_open(file)


def test_a_flipped_bit_outside_the_images_is_refused_or_shows_in_the_samples() -> None:
    """All bits of bytes that are not zero, one of each zero: what may pass is a width, height or label."""
    images = IMAGES[:2]
    data, offsets = written(images)
    whole = walked(data)
    inside = {at + k for at, x in zip(offsets, images, strict=True) for k in range(len(x.data))}
    missed = []
    for place in sorted(set(range(len(data))) - inside):
        for bit in range(8) if data[place] else (place % 8,):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            try:
                same = np.array_equal(walked(bytes(damaged)), whole)
            except ShardError:
                continue
            if same:
                missed.append((place, bit))
    assert missed == []


def test_a_file_cut_anywhere_is_refused() -> None:
    data = written(IMAGES)[0]
    for end in (*range(0, len(data), 61), len(data) - 1):
        with pytest.raises(ShardError, match=r"^s\.beton: "):
            walked(data[:end])


def row(number: int) -> int:
    return METADATA + number * ROW


def allocation(number: int) -> int:
    return 3 * PAGE + number * ALLOCATION


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, struct.pack("<H", 1), "a beton of version 1, expected 2"),
        (2, struct.pack("<H", 3), "its fields are not one image and one label"),
        (HEADER, b"\7", "its fields are not one image and one label"),
        (4, struct.pack("<I", 3 * PAGE), "pages of 12288 bytes, expected a power of two"),
        (8, struct.pack("<Q", 2**60), "do not fit 12360 bytes; the file is cut"),
        (16, struct.pack("<Q", 2**64 - 1), "do not fit 12360 bytes; the file is cut"),
        (row(1) + 5, struct.pack("<Q", 2**63), "the allocation table and the metadata differ at sample 1"),
        (row(0), b"\0", "the metadata are changed at sample 0"),
        (row(2) + 13, b"\1", "the metadata are changed at sample 2"),
    ],
)
def test_a_forged_header_or_row_is_refused(place: int, value: bytes, message: str) -> None:
    data = bytearray(written(IMAGES)[0])
    data[place : place + len(value)] = value
    with pytest.raises(ShardError, match=message):
        walked(bytes(data))


@pytest.mark.parametrize(
    ("sample", "offset", "size", "message"),
    [
        (1, 2**63, 10, "the tables point outside the pages at sample 1"),
        (1, 2 * PAGE, 2**64 - 1, "the tables point outside the pages at sample 1"),
        (2, 3 * PAGE - 10, 20, "overlaps the next, or the table, at sample 2"),
        (1, PAGE, 300, "overlaps the next, or the table, at sample 0"),
        (0, HEADER, 10, "the first image lies in the metadata, at byte 24"),
        (1, 2 * PAGE - 5, 10, "overlaps the next, or the table, at sample 1|crosses a page at sample 1"),
        (1, 2 * PAGE - 5, 0, "the tables point outside the pages at sample 1"),
    ],
)
def test_tables_that_agree_and_point_elsewhere_are_refused(
    sample: int, offset: int, size: int, message: str
) -> None:
    data = bytearray(written(IMAGES)[0])
    struct.pack_into("<Q", data, row(sample) + 5, offset)
    struct.pack_into("<QQ", data, allocation(sample) + 8, offset, size)
    with pytest.raises(ShardError, match=message):
        walked(bytes(data))


def test_bytes_between_images_are_refused_with_their_place() -> None:
    data, offsets = written(IMAGES)
    place = offsets[1] + len(JPEG) + 7
    with pytest.raises(ShardError, match=f"byte {place} belongs to no image and is not zero"):
        walked(data[:place] + b"\1" + data[place + 1 :])


@pytest.mark.parametrize(("width", "height", "size"), [(65_536, 1, 9), (1, 70_000, 9), (0, 4, 9), (4, 4, 0)])
def test_what_the_format_has_no_room_for_is_not_written(width: int, height: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"no room for {width}x{height} pixels"):
        BetonWriter(io.BytesIO(), 1).add(bytes(size), width=width, height=height, label=0)


def test_more_samples_than_the_capacity_are_not_written() -> None:
    with pytest.raises(ValueError, match="made for 2 samples is full"):
        written(IMAGES, capacity=2)


def test_stored_bytes_are_given_out_as_an_image_or_not_at_all() -> None:
    pixels = picture(0, 9, 7).tobytes()
    assert image_file(pixels, 7, 9) == b"P6\n7 9\n255\n" + pixels
    assert image_file(JPEG, 16, 12) == JPEG
    with pytest.raises(ValueError, match="neither a JPEG nor the pixels of 7x8"):
        image_file(pixels, 7, 8)
    with pytest.raises(ValueError, match="a JPEG, not the pixels of 1x500"):
        image_file(JPEG + bytes(1500 - len(JPEG)), 1, 500)


@pytest.mark.slow  # FFCV compiles for ten seconds when it is imported
def test_the_file_is_the_one_that_ffcv_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ffcv", exc_type=ImportError, reason="FFCV is not installed")
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    monkeypatch.undo()  # pages of FFCV's size
    pictures = [noise(n, 800 + 90 * n, 1100) for n in range(6)]  # 2.6 to 4.1 MB: two or three a page

    class Source:
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
            return pictures[place], int(place) - 1

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(tmp_path / "theirs"), fields, num_workers=1).from_indexed_dataset(Source())
    images = [Image(x.tobytes(), x.shape[1], x.shape[0], n - 1) for n, x in enumerate(pictures)]
    assert written(images)[0] == (tmp_path / "theirs").read_bytes()
