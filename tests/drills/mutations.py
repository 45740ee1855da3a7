"""Damage to bytes, keyed by a seed: what disks, networks and hostile hands do to files."""

import zlib
from collections.abc import Callable

import numpy as np

_EXTREMES = (0, 1, 2, 7, 255, 256, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """`data` after one kind of damage, or two; `other` is what a splice takes its tail from."""
    for _ in range(1 + int(rng.random() < 0.25)):
        data = KINDS[rng.integers(len(KINDS))](data, other, rng) or b"\0"
    return data


def flipped(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for bit in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
        damaged[bit // 8] ^= 1 << (bit % 8)
    return bytes(damaged)


def cut(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(1, len(data) + 1)]


def inserted(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(0, len(data) + 1)
    return data[:at] + rng.bytes(rng.integers(1, 700)) + data[at:]


def removed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(0, len(data))
    return data[:at] + data[at + rng.integers(1, 700) :]


def zeroed(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A run of zeros over the bytes, as a page that never reached the disk."""
    at = rng.integers(0, len(data))
    length = min(int(rng.integers(1, 5000)), len(data) - at)
    return data[:at] + bytes(length) + data[at + length :]


def spliced(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The head of one file and the tail of another."""
    return data[: rng.integers(1, len(data) + 1)] + other[rng.integers(0, len(other)) :]


def extreme(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A number that no length or size should be, near the beginning, where the headers are."""
    at, width = rng.integers(0, min(len(data), 120)), int(rng.choice([1, 2, 4]))
    number = _EXTREMES[rng.integers(len(_EXTREMES))] % 2 ** (8 * width)
    return data[:at] + number.to_bytes(width, ["big", "little"][rng.integers(2)]) + data[at + width :]


def edited_length(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """A field of a chunk, segment or directory entry replaced, its check sum right again where it has one."""
    places = _LENGTHS.get(data[:2], _places_of_nothing)(data)
    if not places:
        return extreme(data, other, rng)
    at, width = places[rng.integers(len(places))]
    number = _EXTREMES[rng.integers(len(_EXTREMES))] % 2 ** (8 * width)
    order = "big" if data[:2] in (b"\x89P", b"\xff\xd8", b"\0\0") else "little"
    return _with_right_crcs(data[:at] + number.to_bytes(width, order) + data[at + width :])  # type: ignore[arg-type]


KINDS: tuple[Callable[[bytes, bytes, np.random.Generator], bytes], ...] = (
    flipped, cut, inserted, removed, zeroed, spliced, extreme, edited_length, edited_length,
)  # fmt: skip


def _places_of_nothing(data: bytes) -> list[tuple[int, int]]:
    return []


def _png_places(data: bytes) -> list[tuple[int, int]]:
    """Lengths of the chunks, and the sides of the picture."""
    places, at = [(16, 4), (20, 4), (24, 1), (25, 1)], 8
    while at + 8 <= len(data):
        places.append((at, 4))
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return places


def _jpeg_places(data: bytes) -> list[tuple[int, int]]:
    """Lengths of the segments, and what the frame's says of the sides."""
    places, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        places.append((at + 2, 2))
        if data[at + 1] in (0xC0, 0xC1, 0xC2):
            places += [(at + 4, 1), (at + 5, 2), (at + 7, 2), (at + 9, 1)]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return places


def _riff_places(data: bytes) -> list[tuple[int, int]]:
    places, at = [(4, 4)], 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        places += [(at + 4, 4), (at + 14, 2), (at + 16, 2)]
        at += 8 + size + size % 2
    return places


def _tiff_places(data: bytes) -> list[tuple[int, int]]:
    """The first directory's place and length, and type, count and value of each of its entries."""
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    starts = range(first + 2, first + 2 + 12 * min(entries, 40), 12)
    return [(4, 4), (first, 2)] + [(at + shift, width) for at in starts for shift, width in _TIFF_ENTRY]


_TIFF_ENTRY = ((0, 2), (2, 2), (4, 4), (8, 4))
_LENGTHS = {
    b"\x89P": _png_places,
    b"\xff\xd8": _jpeg_places,
    b"RI": _riff_places,
    b"II": _tiff_places,
    b"GI": lambda data: [(6, 2), (8, 2), (10, 1)],
    b"BM": lambda data: [(2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (28, 2), (30, 4)],
    b"\0\0": lambda data: [(at, 4) for at in range(0, 84, 4)],
}


def _with_right_crcs(data: bytes) -> bytes:
    """A PNG whose chunks have the check sums of what they hold now, as far as its lengths can be followed."""
    if not data.startswith(b"\x89PNG"):
        return data
    at, whole = 8, bytearray(data)
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        whole[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(whole)
