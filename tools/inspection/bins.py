"""Bins, counts and tick marks of the plots; a billion values are counted block by block."""

import math

import numpy as np

MAX_BINS = 48
MAX_POINTS = 500  # of a curve
_CELLS = 40  # of a heat map, along each axis
_BLOCK = 1 << 22


def bin_edges(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Edges of at most `MAX_BINS` bins for positive whole numbers, and whether the axis is logarithmic.

    Edges lie between whole numbers. A small range has a bin for each number; a large one bins of equal width
    on a logarithmic axis, none narrower than about four numbers, or some would hold more numbers than others.
    """
    low, high = int(values.min()), int(values.max())
    if high - low < MAX_BINS:
        return np.arange(low, high + 2) - 0.5, False
    finest = math.log((high + 0.5) / (low - 0.5)) / math.log1p(4 / low)
    count = min(MAX_BINS, max(12, int(finest)))
    edges = np.floor(np.geomspace(low, high + 1, count + 1)) - 0.5
    edges[-1] = high + 0.5
    return np.unique(edges), True


def counted(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """How many values lie in each bin; all lie in one."""
    total = np.zeros(len(edges) - 1, dtype=np.int64)
    for start in range(0, len(values), _BLOCK):
        total += np.histogram(values[start : start + _BLOCK], edges)[0]
    heights: list[float] = total.astype(np.float64).tolist()
    return heights


def heat(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float], list[list[int]]]:
    """Counts of positive pairs in cells of a logarithmic grid: edges of x, edges of y, counts[y][x]."""
    x_edges, y_edges = _grid(x), _grid(y)
    total = np.zeros((len(y_edges) - 1, len(x_edges) - 1), dtype=np.int64)
    for start in range(0, len(x), _BLOCK):
        block = slice(start, start + _BLOCK)
        total += np.histogram2d(y[block], x[block], bins=(y_edges, x_edges))[0].astype(np.int64)
    return x_edges.tolist(), y_edges.tolist(), total.tolist()


def _grid(values: np.ndarray) -> np.ndarray:
    return np.geomspace(values.min() / 1.02, values.max() * 1.02, _CELLS + 1)


def nice_ticks(edges: list[float], *, log: bool = True) -> list[tuple[float, str]]:
    """Three to ten round numbers between the first edge and the last, with their texts."""
    low, high = edges[0], edges[-1]
    if log:
        found = _logarithmic_ticks(low, high)
        if len(found) >= 3:
            return found
    return _even_ticks(low, high)


def _logarithmic_ticks(low: float, high: float) -> list[tuple[float, str]]:
    found: list[float] = []
    for leaders in ((1,), (1, 3), (1, 2, 5)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [leader * 10.0**power for power in powers for leader in leaders]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 4:
            break
    return [(value, short(value)) for value in found]


def _even_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Multiples of 1, 2 or 5 times a power of ten, whole numbers where the range has them."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * leader for leader in (1, 2, 5, 10) if power * leader >= raw)
    step = max(step, 1.0) if high - low >= 1 else step
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(number * step, short(number * step)) for number in range(first, last + 1)]


def short(value: float) -> str:
    """1500 as 1.5k, 2e6 as 2M."""
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g}{letter}"
    return f"{value:.4g}"


def thinned(count: int) -> list[int]:
    """At most `MAX_POINTS` of the numbers 0 to count - 1, evenly spread, with both ends."""
    if count <= MAX_POINTS:
        return list(range(count))
    return [number * (count - 1) // (MAX_POINTS - 1) for number in range(MAX_POINTS)]
