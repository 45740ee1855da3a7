"""What the header of a plain JPEG says, read without a decoder; everything unusual is left to Pillow.

Pillow takes 100 microseconds for it, because it builds tables and metadata that nobody here asks for. This
reader answers only where Pillow's answer is certain to be the same, on every release: one unbroken chain of
segments that are whole and of a known form. `tests/shards/test_jpeg_header.py` compares the two.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from viewmill.shards.errors import ImageError
from viewmill.shards.exif import UPRIGHT, orientation_of_exif

START = b"\xff\xd8"
END, SCAN, FILL = 0xD9, 0xDA, 0xFF
WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM and the restart markers
# The frames that baseline and progressive JPEGs have: the others are arithmetic, lossless or hierarchical.
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
_QUANTIZATION, _APP0, _APP1, _APP2, _APP13, _APP14 = 0xDB, 0xE0, 0xE1, 0xE2, 0xED, 0xEE
# Segments that a decoder only skips while it reads the header: Huffman tables, restart interval, comment,
# the other APPs.
_SKIPPED = frozenset({0xC4, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF})
_WITHOUT_CONTENTS = frozenset({END, FILL}) | WITHOUT_LENGTH
_MARKER = struct.Struct(">BBH")  # and the length
_unpack_marker = _MARKER.unpack_from
_ONE_TABLE = 2 + 65  # length of a segment of one quantization table of 8 bits
_FRAME = struct.Struct(">BHHB")  # without the components
_JFIF_BYTES, _ADOBE_BYTES, _ICC_BYTES = 14, 12, 14  # the least of a whole segment of these
_EXIF, _JFIF, _ADOBE, _ICC, _MPF = b"Exif\0\0", b"JFIF", b"Adobe", b"ICC_PROFILE\0", b"MPF\0"
_PHOTOSHOP, _RESOLUTION, _RESOLUTION_BYTES = b"Photoshop 3.0\0", 0x03ED, 16


class JpegHeader(NamedTuple):
    """Size as stored, EXIF orientation 1..8, and 1 (grey) or 3 components of 8 bits."""

    width: int
    height: int
    orientation: int
    components: int


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker code, first byte, end) of the contents of each segment, up to the first scan's.

    The last one may end after the data, and an end before its first byte is that of a length below 2.
    Source: ITU-T T.81, B.1.1.

    Args:
        data: begins with `START`.

    Raises:
        ImageError: something else than a marker follows a segment, or there is no scan.
    """
    at, last = len(START), len(data) - _MARKER.size
    while at <= last:
        mark, code, length = _MARKER.unpack_from(data, at)
        if mark != 0xFF:
            raise ImageError(f"broken JPEG header: byte {at} is no marker, {mark:#04x}")
        if code not in _WITHOUT_CONTENTS:
            end = at + 2 + length
            yield code, at + 4, end
            if code == SCAN:
                return
            at = end
        elif code == FILL:  # may precede a marker
            at += 1
        elif code == END:
            break
        else:
            yield code, at + 2, at + 2
            at += 2
    raise ImageError("broken JPEG header: it ends before the first scan")


def plain_jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """The header of a plain JPEG: grey or three components, 8 bits, baseline or progressive; else None."""
    # Not by `segments`: a generator takes a third longer, and each image of a conversion comes by here.
    frame, exif, resolution_known = None, b"", False
    at, size = len(START), len(data)
    view = memoryview(data)  # so that no segment is copied to be looked at
    while at + 4 <= size:
        mark, code, length = _unpack_marker(view, at)
        if mark == 0xFF and code == FILL:
            at += 1
            continue
        start, at = at + 4, at + 2 + length
        if mark != 0xFF or not start <= at <= size:
            return None
        if code in _SKIPPED or (code == _QUANTIZATION and length == _ONE_TABLE and view[start] < 16):
            continue
        if code == SCAN:
            return _header(frame, exif, resolution_known)
        if code in _WITHOUT_CONTENTS:
            return None
        body = view[start:at]
        if code in _FRAMES and frame is None:
            frame = body
        elif code == _APP1 and body[:6] == _EXIF and not exif:
            exif = bytes(body)
        elif code == _APP0 and body[:4] == _JFIF and len(body) >= _JFIF_BYTES:
            resolution_known = resolution_known or body[7] in (1, 2)
        elif not _is_ignored(code, body):
            return None
    return None


def _header(frame: memoryview | None, exif: bytes, resolution_known: bool) -> JpegHeader | None:
    if frame is None or len(frame) < _FRAME.size:
        return None
    bits, height, width, components = _FRAME.unpack_from(frame)
    whole = len(frame) == _FRAME.size + 3 * components
    if bits != 8 or components not in (1, 3) or not whole or not height or not width:
        return None
    # Pillow looks into EXIF for a resolution that JFIF does not give, and may fail at what it finds.
    if exif and not resolution_known and not _has_plain_resolution(exif[len(_EXIF) :]):
        return None
    return JpegHeader(width, height, orientation_of_exif(exif) if exif else UPRIGHT, components)


def _is_ignored(code: int, body: memoryview) -> bool:
    """Whether a segment is whole, and says nothing of the picture's size, mode or frames."""
    if code == _QUANTIZATION:
        return _has_whole_tables(body)
    if code == _APP0:
        return body[:4] != _JFIF
    if code == _APP1:
        return body[:6] != _EXIF
    if code == _APP2:  # MPF announces more pictures
        whole = body[:12] != _ICC or len(body) >= _ICC_BYTES
        return whole and body[:4] != _MPF
    if code == _APP13:
        return body[:14] != _PHOTOSHOP or _has_whole_resources(bytes(body))
    return code == _APP14 and (body[:5] != _ADOBE or len(body) >= _ADOBE_BYTES)


def _has_whole_tables(body: memoryview) -> bool:
    """Whether quantization tables fill the segment. Source: ITU-T T.81, B.2.4.1."""
    at = 0
    while at < len(body):
        at += 129 if body[at] >> 4 else 65
    return at == len(body)


def _has_whole_resources(body: bytes) -> bool:
    """Whether image resource blocks are whole, up to where there is no more.

    Source: Adobe Photoshop File Formats Specification, Image Resource Blocks.
    """
    at = len(_PHOTOSHOP)
    while body.startswith(b"8BIM", at):
        name = at + 6  # behind the block's code; its length comes first, and it is padded to be even
        if name >= len(body):
            return False
        length = name + 1 + body[name]
        length += length & 1
        if length + 4 > len(body):
            return False
        (size,) = struct.unpack_from(">I", body, length)
        end = length + 4 + size
        (code,) = struct.unpack_from(">H", body, name - 2)
        if end > len(body) or (code == _RESOLUTION and size < _RESOLUTION_BYTES):
            return False
        at = end + (end & 1)
    return True


def _has_plain_resolution(tiff: bytes) -> bool:
    """Whether the directory is whole, and states a resolution as TIFF 6.0 says or not at all."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return False
    (directory,) = struct.unpack_from(order + "I", tiff, 4)
    if directory + 2 > len(tiff):
        return False
    (num_entries,) = struct.unpack_from(order + "H", tiff, directory)
    if directory + 2 + 12 * num_entries > len(tiff):
        return False
    for start in range(directory + 2, directory + 2 + 12 * num_entries, 12):
        tag, kind, count, value = struct.unpack_from(order + "HHII", tiff, start)
        if tag == 0x011A and (kind != 5 or count != 1 or value + 8 > len(tiff)):  # a rational
            return False
        if tag == 0x0128 and (kind != 3 or count != 1):  # the unit, a short
            return False
    return True
