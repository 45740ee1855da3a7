"""From a decoded image to finished views in one compiled function: the arithmetic of `reference.py`, fused.

A view is made in blocks of eight rows, small enough to stay in the first two caches:

    rows of the box    --sum--> 8 rows as wide as the box      vectors run along a row
                       --turn-> the same, pixel by pixel       (8 x 8 transposes)
                       --sum--> 8 rows as wide as the view     vectors run down the 8 rows
                       --turn-> 8 rows, channel by channel
                       colour, clamp, and, without a blur: solarize, normalise, store

With a blur, rows are blurred across and put aside, and blurred down when all of them are there.
"""

import math

import numpy as np
from viewmill.pipelines.executors.host.compiled import compiled
from viewmill.pipelines.executors.host.vectors import (
    add,
    clamp,
    load,
    multiply,
    multiply_add,
    solarized,
    splat,
    store,
    transpose,
)
from viewmill.pipelines.executors.host.weights import (
    blur_weights,
    colour_map,
    most_taps,
    reflected,
    resize_weights,
)
from viewmill.pipelines.executors.host.writing import write_row

ROWS = 8  # of a block
# Columns of the plan of one view.
COLUMNS = (
    "top", "left", "height", "width", "flip",
    "brightness", "contrast", "saturation", "hue", "sigma", "solarize",
)  # fmt: skip


@compiled
def _padded(length):
    """Room for `length` floats that are worked on sixteen at a time."""
    return (length + 15) // 16 * 16


@compiled
def _radius(sigma):
    return math.ceil(3.0 * sigma) if sigma > 0 else 0


@compiled
def scratch_floats(height, width, size, bicubic, sigma):
    """float32 numbers of scratch memory that `render_view` needs for a box of this size."""
    side, radius = _padded(size), _radius(sigma)
    weights = size * (most_taps(height, size, bicubic) + most_taps(width, size, bicubic))
    block = 2 * ROWS * _padded(3 * width) + 2 * 3 * ROWS * side + 3 * side
    blur = 3 * size * side + side + 2 * radius + 32 + radius + 1 if radius else 0
    return weights + block + blur + 16


@compiled
def _sum_rows(rgb, first, pitch, length, weights, at, count, out, to):
    """out[to + i] = sum over `count` rows, `pitch` bytes apart, of weight times pixel i; length: of a row."""
    if length < 8:
        for i in range(length):
            total = np.float32(0.0)
            for tap in range(count):
                total += weights[at + tap] * np.float32(rgb[first + tap * pitch + i])
            out[to + i] = total
        return
    i = 0
    while i + 32 <= length:
        a = b = c = d = splat(np.float32(0.0))
        for tap in range(count):
            weight, place = splat(weights[at + tap]), first + tap * pitch + i
            a = multiply_add(weight, load(rgb, place), a)
            b = multiply_add(weight, load(rgb, place + 8), b)
            c = multiply_add(weight, load(rgb, place + 16), c)
            d = multiply_add(weight, load(rgb, place + 24), d)
        store(out, to + i, a)
        store(out, to + i + 8, b)
        store(out, to + i + 16, c)
        store(out, to + i + 24, d)
        i += 32
    while i < length:
        i = min(i, length - 8)  # the last eight may overlap those before: not a byte past the row is read
        a = splat(np.float32(0.0))
        for tap in range(count):
            a = multiply_add(splat(weights[at + tap]), load(rgb, first + tap * pitch + i), a)
        store(out, to + i, a)
        i += 8


@compiled
def _sum_columns(turned, at_turned, size, flip, weights, at, taps, starts, counts, out, to):
    """Across the view: per output pixel, 3 channels of 8 rows; flipped in the writing."""
    for x in range(size):
        red = green = blue = splat(np.float32(0.0))
        place = at_turned + starts[x] * 24
        for tap in range(counts[x]):
            weight = splat(weights[at + taps * x + tap])
            red = multiply_add(weight, load(turned, place), red)
            green = multiply_add(weight, load(turned, place + 8), green)
            blue = multiply_add(weight, load(turned, place + 16), blue)
            place += 24
        where = to + 24 * (size - 1 - x if flip else x)
        store(out, where, red)
        store(out, where + 8, green)
        store(out, where + 16, blue)


@compiled
def _colour_row(rows, at, plane, side, numbers, colours, is_coloured):
    """Colour map and clamp of one row of three planes, in place."""
    for x in range(0, side, 8):
        red, green, blue = load(rows, at + x), load(rows, at + plane + x), load(rows, at + 2 * plane + x)
        if is_coloured:
            added = splat(numbers[colours + 9])
            old_red, old_green, old_blue = red, green, blue
            red = multiply_add(splat(numbers[colours]), old_red, added)
            red = multiply_add(splat(numbers[colours + 1]), old_green, red)
            red = multiply_add(splat(numbers[colours + 2]), old_blue, red)
            green = multiply_add(splat(numbers[colours + 3]), old_red, added)
            green = multiply_add(splat(numbers[colours + 4]), old_green, green)
            green = multiply_add(splat(numbers[colours + 5]), old_blue, green)
            blue = multiply_add(splat(numbers[colours + 6]), old_red, added)
            blue = multiply_add(splat(numbers[colours + 7]), old_green, blue)
            blue = multiply_add(splat(numbers[colours + 8]), old_blue, blue)
        store(rows, at + x, clamp(red))
        store(rows, at + plane + x, clamp(green))
        store(rows, at + 2 * plane + x, clamp(blue))


@compiled
def _finish_row(rows, at, plane, side, solarize, normalisation, line):
    """Solarize and normalise one row of three planes into `line`, (3, side)."""
    for channel in range(3):
        scale, shift = splat(normalisation[0, channel]), splat(normalisation[1, channel])
        for x in range(0, side, 8):
            value = load(rows, at + channel * plane + x)
            if solarize:
                value = solarized(value)
            store(rows, line + channel * side + x, multiply_add(value, scale, shift))


@compiled
def _blur_across(rows, at, size, side, radius, weights, border, to):
    """One row of one channel, blurred along itself; border: room for the row with its reflections."""
    for x in range(0, side, 8):
        store(rows, border + radius + x, load(rows, at + x))
    for step in range(1, radius + 1):
        rows[border + radius - step] = rows[at + reflected(-step, size)]
        rows[border + radius + size - 1 + step] = rows[at + reflected(size - 1 + step, size)]
    middle = splat(rows[weights])
    for x in range(0, side, 16):
        centre = border + radius + x
        a, b = multiply(middle, load(rows, centre)), multiply(middle, load(rows, centre + 8))
        for step in range(1, radius + 1):
            weight, left, right = splat(rows[weights + step]), centre - step, centre + step
            a = multiply_add(weight, add(load(rows, left), load(rows, right)), a)
            b = multiply_add(weight, add(load(rows, left + 8), load(rows, right + 8)), b)
        store(rows, to + x, a)
        store(rows, to + x + 8, b)


@compiled
def _blur_down(rows, aside, size, side, y, radius, weights, to):
    """Row y of three planes, blurred down its columns and clamped, into (3, side)."""
    middle = splat(rows[weights])
    for channel in range(3):
        plane = aside + channel * size * side
        for x in range(0, side, 16):
            centre = plane + y * side + x
            a, b = multiply(middle, load(rows, centre)), multiply(middle, load(rows, centre + 8))
            for step in range(1, radius + 1):
                above = plane + reflected(y - step, size) * side + x
                below = plane + reflected(y + step, size) * side + x
                weight = splat(rows[weights + step])
                a = multiply_add(weight, add(load(rows, above), load(rows, below)), a)
                b = multiply_add(weight, add(load(rows, above + 8), load(rows, below + 8)), b)
            store(rows, to + channel * side + x, clamp(a))
            store(rows, to + channel * side + x + 8, clamp(b))


@compiled
def render_view(rgb, plan, size, bicubic, normalisation, form, out, scratch):
    """One view of one image, in the caller's memory. Compiled code calls it; the signature is stable.

    Args:
        rgb: (H, W, 3) uint8, C-contiguous, upright.
        plan: (11,) float64, the columns of `COLUMNS`; the box lies in the image (not checked).
        size: side of the view, pixels.
        bicubic: bool; else bilinear.
        normalisation: (2, 3) float32, of `writing.normalisation_of`.
        form: `writing.form_of` the view format.
        out: uint8, 3 * size * size items of the form's bytes each: the memory of this view of this image.
        scratch: float32, at least `scratch_floats` of the box; one per thread.
    """
    top, left, height, width = int(plan[0]), int(plan[1]), int(plan[2]), int(plan[3])
    flip, solarize, sigma = plan[4] != 0.0, plan[10] != 0.0, plan[9]
    is_coloured = plan[5] != 1.0 or plan[6] != 1.0 or plan[7] != 1.0 or plan[8] != 0.0
    colours = np.empty(10, np.float32)
    colour_map(plan[5], plan[6], plan[7], plan[8], colours, 0)
    side, radius, row_length = _padded(size), _radius(sigma), 3 * width
    starts, counts = np.empty((2, size), np.int64), np.empty((2, size), np.int64)
    # Where everything lies in the scratch memory.
    taps_down, taps_across = most_taps(height, size, bicubic), most_taps(width, size, bicubic)
    down = 0
    across = down + size * taps_down
    summed = across + size * taps_across
    turned = summed + ROWS * _padded(row_length)
    narrow = turned + ROWS * _padded(row_length)
    block = narrow + 3 * ROWS * side
    line = block + 3 * ROWS * side
    gauss = line + 3 * side
    border = gauss + radius + 1
    aside = border + side + 2 * radius + 32
    resize_weights(height, size, bicubic, taps_down, scratch, down, starts[0], counts[0])
    resize_weights(width, size, bicubic, taps_across, scratch, across, starts[1], counts[1])
    if radius:
        blur_weights(sigma, radius, scratch, gauss)
    pixels, pitch = rgb.reshape(-1), 3 * rgb.shape[1]
    for y in range(0, size, ROWS):
        num_rows = min(ROWS, size - y)
        for row in range(num_rows):
            first = (top + starts[0, y + row]) * pitch + 3 * left
            weights, to = down + taps_down * (y + row), summed + row * _padded(row_length)
            _sum_rows(pixels, first, pitch, row_length, scratch, weights, counts[0, y + row], scratch, to)
        for x in range(0, row_length, 8):
            transpose(scratch, turned + 8 * x, 8, scratch, summed + x, _padded(row_length))
        _sum_columns(
            scratch, turned, size, flip, scratch, across, taps_across, starts[1], counts[1], scratch, narrow
        )
        for channel in range(3):
            for x in range(0, size, 8):
                to = block + channel * ROWS * side + x
                transpose(scratch, to, side, scratch, narrow + 24 * x + 8 * channel, 24)
        for row in range(num_rows):
            at = block + row * side
            _colour_row(scratch, at, ROWS * side, side, colours, 0, is_coloured)
            if radius:
                for channel in range(3):
                    to = aside + (channel * size + y + row) * side
                    _blur_across(scratch, at + channel * ROWS * side, size, side, radius, gauss, border, to)
            else:
                _finish_row(scratch, at, ROWS * side, side, solarize, normalisation, line)
                write_row(scratch, line, side, size, y + row, form, out)
    if radius:
        for y in range(size):
            _blur_down(scratch, aside, size, side, y, radius, gauss, line)
            _finish_row(scratch, line, side, side, solarize, normalisation, line)
            write_row(scratch, line, side, size, y, form, out)
