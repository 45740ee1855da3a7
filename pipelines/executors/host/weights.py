"""The weights of the resize filter and of the blur, and the colour map, as compiled code computes them."""

import math

import numpy as np
from viewmill.pipelines.executors.host.compiled import compiled
from viewmill.pipelines.executors.reference import RGB_OF_YIQ, YIQ_OF_RGB

# RGB_OF_YIQ @ turn @ YIQ_OF_RGB of the reference is luma + cosine * along + sine * across.
_LUMA = np.outer(RGB_OF_YIQ[:, 0], YIQ_OF_RGB[0])
_ALONG = RGB_OF_YIQ[:, 1:] @ YIQ_OF_RGB[1:]
_ACROSS = RGB_OF_YIQ[:, 1:] @ np.array([[0.0, 1.0], [-1.0, 0.0]]) @ YIQ_OF_RGB[1:]


@compiled
def most_taps(length, size, bicubic):
    """Most pixels of `length` that one of `size` output pixels is a sum of."""
    return math.ceil((2.0 if bicubic else 1.0) * max(length / size, 1.0)) * 2 + 1


@compiled
def resize_weights(length, size, bicubic, taps, weights, at, starts, counts):
    """The antialiased filter that takes `length` pixels to `size`: which it sums, and how much each weighs.

    Bicubic (a = -0.5) or bilinear; wider by length / size when it shrinks; cut at the borders, then divided
    by its sum. Source: Keys, Cubic convolution interpolation (1981), equation 4, for a = -0.5.

    Args:
        taps: `most_taps`; the weights of output i begin at weights[at + taps i].
        starts, counts: (size,) int64, filled: the first pixel and the number of pixels of each output.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    reach = (2.0 if bicubic else 1.0) * stretch
    for output in range(size):
        centre = (output + 0.5) * scale
        start = max(int(centre - reach + 0.5), 0)
        count = min(int(centre + reach + 0.5), length) - start
        total = 0.0
        for tap in range(count):
            x = abs(start + tap + 0.5 - centre) / stretch
            if bicubic:
                near = (1.5 * x - 2.5) * x * x + 1.0
                far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
                weight = near if x < 1.0 else (far if x < 2.0 else 0.0)
            else:
                weight = 1.0 - x if x < 1.0 else 0.0
            weights[at + taps * output + tap] = weight
            total += weight
        for tap in range(count):
            weights[at + taps * output + tap] = weights[at + taps * output + tap] / total
        starts[output], counts[output] = start, count


@compiled
def blur_weights(sigma, radius, weights, at):
    """Half of a Gaussian, from its middle outwards, radius + 1 numbers; the whole sums to 1."""
    total = 0.0
    for step in range(radius + 1):
        weight = math.exp(-0.5 * (step / sigma) ** 2)
        weights[at + step] = weight
        total += weight if step == 0 else 2.0 * weight
    for step in range(radius + 1):
        weights[at + step] = weights[at + step] / total


@compiled
def colour_map(brightness, contrast, saturation, hue, numbers, at):
    """The affine map of the four parameters: a matrix row by row, then what is added; 10 numbers.

    The same formula as `reference.colour_map`.
    """
    angle = math.radians(hue)
    cosine, sine = saturation * math.cos(angle), saturation * math.sin(angle)
    for row in range(3):
        for column in range(3):
            turned = _LUMA[row, column] + cosine * _ALONG[row, column] + sine * _ACROSS[row, column]
            numbers[at + 3 * row + column] = brightness * contrast * turned
    numbers[at + 9] = brightness * (128.0 - 128.0 * contrast)


@compiled
def reflected(index, length):
    """The index inside 0..length - 1 that reflect-101 borders show at `index`: 2 1 0 1 2 .. 1 0."""
    if length == 1:
        return 0
    index = index % (2 * (length - 1))
    return index if index < length else 2 * (length - 1) - index
