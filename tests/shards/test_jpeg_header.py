"""Our own reader of JPEG headers says what Pillow says, or nothing."""

import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.errors import ImageError
from viewmill.shards.images import ImageInfo, _info_by_decoder, probe
from viewmill.shards.jpeg_header import JpegHeader, plain_jpeg_header

from tests.shards.pictures import SHARED_DATA, encoded, exif_with_orientation, picture

RGB = picture()
GREY = Image.fromarray(RGB).convert("L")
PLAIN = {
    "colour": encoded(RGB, "JPEG"),
    "progressive": encoded(RGB, "JPEG", progressive=True),
    "grey": encoded(GREY, "JPEG"),
    "turned": encoded(RGB, "JPEG", exif=exif_with_orientation(6)),
    "resolution": encoded(RGB, "JPEG", dpi=(72, 72), exif=exif_with_orientation(3)),
    "profile": encoded(RGB, "JPEG", icc_profile=b"p" * 300),
    "comment": encoded(RGB, "JPEG", comment=b"hello"),
    "restarts": encoded(RGB, "JPEG", restart_marker_rows=1),
}


def segment(code: int, body: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


def with_segments(*added: bytes, jpeg: bytes = PLAIN["colour"]) -> bytes:
    return jpeg[:2] + b"".join(added) + jpeg[2:]


def exif_with(*entries: tuple[int, int, int, int], order: str = "<") -> bytes:
    """An EXIF block whose directory has these entries: tag, kind, count, value."""
    magic = b"II*\0" if order == "<" else b"MM\0*"
    packed = b"".join(struct.pack(order + "HHII", *entry) for entry in entries)
    return b"Exif\0\0" + magic + struct.pack(order + "IH", 8, len(entries)) + packed + bytes(12)


def resource(code: int, data: bytes, name: bytes = b"", size: int | None = None) -> bytes:
    """An image resource block of Photoshop; size: what it states, where that is not the data's."""
    named = bytes([len(name)]) + name + bytes((len(name) + 1) % 2)
    stated = struct.pack(">I", len(data) if size is None else size)
    return b"8BIM" + struct.pack(">H", code) + named + stated + data + bytes(len(data) % 2)


def photoshop(*blocks: bytes) -> bytes:
    return with_segments(segment(0xED, b"Photoshop 3.0\0" + b"".join(blocks)))


PLAIN |= {
    "Photoshop": photoshop(
        resource(0x0404, b"caption"), resource(0x03ED, bytes(16)), resource(0x0BB7, b"x", b"name")
    ),
    "Photoshop, and more": photoshop(resource(0x0404, b"caption"), b"8BPS"),
}
UNUSUAL = {
    "CMYK": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "several pictures": encoded(RGB, "MPO", save_all=True, append_images=[Image.fromarray(RGB)]),
    "rubbish between segments": with_segments(b"rubbish"),
    "a marker without a length": with_segments(b"\xff\x01"),
    "a short JFIF": with_segments(segment(0xE0, b"JFIF\0")),
    "a short Adobe": with_segments(segment(0xEE, b"Adobe")),
    "a short profile": with_segments(segment(0xE2, b"ICC_PROFILE\0\1")),
    "Photoshop, cut in a code": photoshop(b"8BIM\4\4"),
    "Photoshop, cut in a name": photoshop(b"8BIM\4\4\7na"),
    "Photoshop, cut in its data": photoshop(resource(0x0404, b"caption", size=100)),
    "Photoshop, a short resolution": photoshop(resource(0x03ED, bytes(8))),
    "half a table": with_segments(segment(0xDB, bytes(30))),
    "an odd resolution": encoded(RGB, "JPEG", exif=exif_with((0x011A, 2, 1, 0), (0x0128, 3, 1, 2))),
    "two frames": with_segments(segment(0xC0, b"\x08\0\x10\0\x10\1\1\x11\0")),
    "two EXIF blocks": with_segments(segment(0xE1, exif_with_orientation(6)), jpeg=PLAIN["turned"]),
    "a length below 2": with_segments(b"\xff\xfe\0\1"),
    "no rows": PLAIN["grey"].replace(b"\xff\xc0\0\x0b\x08\0\x0c", b"\xff\xc0\0\x0b\x08\0\0"),
    "12 bits": PLAIN["grey"].replace(b"\xff\xc0\0\x0b\x08", b"\xff\xc0\0\x0b\x0c"),
}


def answer(read: Callable[[bytes], ImageInfo], data: bytes) -> ImageInfo | str:
    """What a reader says of the bytes: the information, or the refusal's reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on damaged files
        try:
            return read(data)
        except ImageError as error:
            return str(error)


def assert_same_answers(data: bytes) -> None:
    assert answer(probe, data) == answer(_info_by_decoder, data)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_jpegs_are_read_without_a_decoder(name: str) -> None:
    assert plain_jpeg_header(PLAIN[name]) is not None
    assert_same_answers(PLAIN[name])


def test_a_header_gives_the_stored_size_and_the_orientation() -> None:
    assert plain_jpeg_header(PLAIN["turned"]) == JpegHeader(16, 12, orientation=6, components=3)
    assert plain_jpeg_header(PLAIN["grey"]) == JpegHeader(16, 12, orientation=1, components=1)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_jpegs_are_left_to_pillow(name: str) -> None:
    assert plain_jpeg_header(UNUSUAL[name]) is None
    assert_same_answers(UNUSUAL[name])


def test_fill_bytes_may_precede_a_marker() -> None:
    data = with_segments(b"\xff\xff\xff")
    assert plain_jpeg_header(data) == plain_jpeg_header(PLAIN["colour"])
    assert_same_answers(data)


@pytest.mark.parametrize("name", PLAIN)
def test_a_header_cut_anywhere_gets_pillows_answer(name: str) -> None:
    data = PLAIN[name]
    for end in range(data.index(b"\xff\xda") + 16):
        assert_same_answers(data[:end])


def header_changes(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """The bytes with one to three places of the header changed, removed or inserted; many are 0xff or 0."""
    generator = np.random.default_rng(seed)
    end = data.index(b"\xff\xda") + 14
    for _ in range(count):
        changed = bytearray(data)
        for place in generator.integers(2, end, generator.integers(1, 4)).tolist():
            value = int(generator.choice([0, 0xFF, *generator.integers(0, 256, 2)]))
            kind = generator.integers(0, 8)
            if kind == 0:
                del changed[place : place + 1]
            elif kind == 1:
                changed[place:place] = bytes([value])
            else:
                changed[place : place + 1] = bytes([value])
        yield bytes(changed)


@pytest.mark.parametrize("name", [*PLAIN, "Photoshop, cut in its data", "CMYK", "two EXIF blocks"])
def test_changed_headers_get_pillows_answer(name: str) -> None:
    data = (PLAIN | UNUSUAL)[name]
    for changed in header_changes(data, seed=len(name), count=400):
        assert_same_answers(changed)


@pytest.mark.parametrize("order", ["<", ">"])
def test_any_entries_of_exif_get_pillows_answer(order: str) -> None:
    generator = np.random.default_rng(0)
    tags = [0x0112, 0x011A, 0x0128, 0x0100]
    for _ in range(800):
        entries = [
            (int(generator.choice(tags)), *(int(generator.integers(0, top)) for top in (14, 4, 80)))
            for _ in range(generator.integers(0, 5))
        ]
        assert_same_answers(encoded(RGB, "JPEG", exif=exif_with(*entries, order=order)))


@pytest.mark.skipif(not (SHARED_DATA / "odd_images.tar").is_file(), reason="odd_images.tar is not here")
def test_odd_images_get_pillows_answer() -> None:
    with tarfile.open(SHARED_DATA / "odd_images.tar") as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                assert_same_answers(file.read())


def test_a_picture_over_the_limit_is_refused_as_by_pillow() -> None:
    grey = PLAIN["grey"]
    huge = grey.replace(b"\x08\0\x0c\0\x10\1", b"\x08\x40\0\x40\0\1")
    assert huge != grey
    assert str(answer(probe, huge)).startswith("too large")
    assert_same_answers(huge)
