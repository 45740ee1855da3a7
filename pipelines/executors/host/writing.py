"""The last step of a view: a finished row into the caller's memory, in the dtype and layout asked for."""

import numpy as np
from viewmill.pipelines.executors.host.compiled import compiled
from viewmill.pipelines.executors.host.vectors import (
    interleaved,
    load,
    store_bfloat16,
    store_float16,
    store_float32,
    store_uint8,
)
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.spec import ViewSpec

# A form is one of these, plus CHANNELS_LAST.
FLOAT32, FLOAT16, BFLOAT16, UINT8 = 0, 1, 2, 3
CHANNELS_LAST = 4
_DTYPES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16, "uint8": UINT8}
_BYTES = (4, 2, 2, 1)


def form_of(view_format: ViewFormat) -> int:
    """A view format as the kernel takes it."""
    return _DTYPES[view_format.dtype] + (CHANNELS_LAST if view_format.channels_last else 0)


def normalisation_of(spec: ViewSpec, view_format: ViewFormat) -> np.ndarray:
    """(2, 3) float32: what a pixel on 0..255 is multiplied by, and what is added then."""
    if not view_format.normalised:
        return np.array([[1.0] * 3, [0.0] * 3], np.float32)
    mean, std = np.array(spec.mean), np.array(spec.std)
    return np.stack([1 / (255 * std), -mean / std]).astype(np.float32)


@compiled
def bytes_of(form):
    """Bytes of one channel of one pixel."""
    return _BYTES[form % CHANNELS_LAST]


@compiled
def _store(dtype, memory, at, value):
    if dtype == FLOAT32:
        store_float32(memory, at, value)
    elif dtype == FLOAT16:
        store_float16(memory, at, value)
    elif dtype == BFLOAT16:
        store_bfloat16(memory, at, value)
    else:
        store_uint8(memory, at, value)


@compiled
def _write_plane(line, at, size, dtype, memory, to, item):
    """`size` numbers from line[at] on, to byte `to` on."""
    for x in range(0, size - 7, 8):
        _store(dtype, memory, to + x * item, load(line, at + x))
    if size % 8:  # the last eight overlap those before, so that no byte past the row is written
        _store(dtype, memory, to + (size - 8) * item, load(line, at + size - 8))


@compiled
def _write_pixels(line, at, side, size, dtype, memory, to, item):
    """`size` pixels of three planes, channels side by side, to byte `to` on."""
    x = 0
    while x < size:
        x = min(x, size - 8)
        place = at + x
        parts = interleaved(load(line, place), load(line, place + side), load(line, place + 2 * side))
        for part in range(3):
            _store(dtype, memory, to + (3 * x + 8 * part) * item, parts[part])
        x += 8


@compiled
def write_row(line, at, side, size, y, form, out):
    """Row y of a view from three planes `side` floats apart; out: the uint8 memory of the whole view."""
    dtype, item = form % CHANNELS_LAST, bytes_of(form)
    if form >= CHANNELS_LAST:
        start, length = 3 * size * y * item, 3 * size * item
        if size < 8:
            room = np.empty(24 * item, np.uint8)
            _write_pixels(line, at, side, 8, dtype, room, 0, item)
            out[start : start + length] = room[:length]
        else:
            _write_pixels(line, at, side, size, dtype, out, start, item)
        return
    for channel in range(3):
        start, length = size * (channel * size + y) * item, size * item
        if size < 8:
            room = np.empty(8 * item, np.uint8)
            _write_plane(line, at + channel * side, 8, dtype, room, 0, item)
            out[start : start + length] = room[:length]
        else:
            _write_plane(line, at + channel * side, size, dtype, out, start, item)
