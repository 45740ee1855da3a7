"""A PNG writer whose bytes depend on the pixels and on zlib alone.

Pillow may be built on zlib-ng, whose output can change with the processor; shards must not.
"""

import struct
import zlib

import numpy as np

_ROWS_AT_ONCE = 256  # bounds the filter's working memory, about 20 bytes a pixel of these rows


def encode_png(rgb: np.ndarray) -> bytes:
    """Lossless PNG of an RGB picture: 8 bit, not interlaced, no other chunk than IHDR, IDAT and IEND.

    Source: Portable Network Graphics (third edition), sections 9 (filtering), 10 and 11.

    Args:
        rgb: (H, W, 3) uint8, neither side 0.

    Raises:
        ValueError: another shape or type.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape:
        raise ValueError(f"a PNG is made of (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    height, width = rgb.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header), _chunk(b"IDAT", _deflate(rgb)), _chunk(b"IEND", b"")]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deflate(rgb: np.ndarray) -> bytes:
    stream = zlib.compressobj(6)
    above = np.zeros_like(rgb[:1])
    parts = []
    for start in range(0, len(rgb), _ROWS_AT_ONCE):
        rows = rgb[start : start + _ROWS_AT_ONCE]
        parts.append(stream.compress(_filter(rows, np.concatenate([above, rows[:-1]]))))
        above = rows[-1:]
    return b"".join([*parts, stream.flush()])


def _filter(rows: np.ndarray, above: np.ndarray) -> bytes:
    """Each row after the filter with the least sum of absolute differences, its number in front of it."""
    left, above_left = np.zeros_like(rows), np.zeros_like(rows)
    left[:, 1:], above_left[:, 1:] = rows[:, :-1], above[:, :-1]
    predictions = {0: np.zeros_like(rows), 1: left, 2: above, 4: _paeth(left, above, above_left)}
    residuals = np.stack([(rows - guess).reshape(len(rows), -1) for guess in predictions.values()])
    sizes = np.abs(residuals.view(np.int8).astype(np.int16)).sum(axis=2, dtype=np.int64)  # (filters, rows)
    best = sizes.argmin(axis=0)
    numbers = np.array(list(predictions), dtype=np.uint8)[best]
    return np.column_stack([numbers, residuals[best, np.arange(len(rows))]]).tobytes()


def _paeth(left: np.ndarray, above: np.ndarray, above_left: np.ndarray) -> np.ndarray:
    a, b, c = (x.astype(np.int16) for x in (left, above, above_left))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - c - c)
    nearest_b_or_c = np.where(to_b <= to_c, above, above_left)
    return np.where((to_a <= to_b) & (to_a <= to_c), left, nearest_b_or_c)
