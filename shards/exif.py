"""The EXIF orientation, read from the TIFF structure itself: the same on every decoder and Pillow release.

Pillow also obeys an orientation in XMP, DALI does not; so only tag 0x0112 of the first directory counts.
"""

import struct

import numpy as np

UPRIGHT = 1
_ORIENTATION_TAG = 0x0112
_SHORT = 3


def orientation_of_exif(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block, with or without its 'Exif' prefix; 1 if absent, damaged or invalid.

    Source: TIFF 6.0, section 2 (header and directory) and section 8 (Orientation).
    """
    tiff = exif[6:] if exif.startswith(b"Exif\0\0") else exif
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return UPRIGHT
    magic, directory = struct.unpack_from(order + "HI", tiff, 2)
    if magic != 42 or directory + 2 > len(tiff):
        return UPRIGHT
    (num_entries,) = struct.unpack_from(order + "H", tiff, directory)
    for start in range(directory + 2, min(directory + 2 + 12 * num_entries, len(tiff) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", tiff, start)
        if tag == _ORIENTATION_TAG:
            return value if kind == _SHORT and count == 1 and 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def orientation_of_png(data: bytes) -> int:
    """Orientation in a PNG's eXIf chunk, which may also follow the pixels; headers only are read.

    Source: Portable Network Graphics (third edition), section 11.3.4.5.
    """
    start = 8
    while start + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        if kind == b"eXIf":
            return orientation_of_exif(data[start + 8 : start + 8 + length])
        start += length + 12
    return UPRIGHT


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places when the picture is turned upright."""
    return orientation >= 5


def turn_upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    """The stored picture (H, W, 3) as it is meant to be seen; (W, H, 3) for orientations 5 to 8.

    Source: TIFF 6.0, Orientation: which side of the picture the first row and the first column are.
    """
    if swaps_sides(orientation):
        rgb = rgb.transpose(1, 0, 2)
    # The first row is the bottom in 3 and 4, and in 7 and 8 after the sides changed places.
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)
