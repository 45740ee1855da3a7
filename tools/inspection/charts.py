"""What the plots of a data set show, as numbers: the PNGs and the page are drawn from the same ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from viewmill.tools.html_page import figure, shown
from viewmill.tools.inspection.bins import bin_edges, counted, heat, nice_ticks, thinned

if TYPE_CHECKING:
    from viewmill.shards.manifest import Dataset
    from viewmill.shards.survey import Mixing, Survey

MAX_BARS = 40  # names on one plot
NAME_LENGTH = 36  # characters of a name beside its bar
FEW_SIZES = 12  # up to so many different sizes each has a bar of its own
FEW_SHARDS = 200  # up to so many shards each has a column of its own
Ticks = list[tuple[float, str]]


@dataclass(frozen=True)
class Columns:
    """A height for each interval of the x axis: n + 1 edges, n heights."""

    edges: list[float]
    heights: list[float]
    log: bool
    ticks: Ticks


@dataclass(frozen=True)
class Bars:
    """A number a name, the first on top."""

    names: list[str]
    values: Sequence[float]


@dataclass(frozen=True)
class Heat:
    """Counts in cells, counts[y][x]; both axes are logarithmic."""

    x_edges: list[float]
    y_edges: list[float]
    counts: list[list[int]]
    x_ticks: Ticks
    y_ticks: Ticks


@dataclass(frozen=True)
class Lines:
    """A curve a name over the same x; the first is the data set's, others are there to compare with."""

    x: list[float]
    curves: dict[str, list[float]]


@dataclass(frozen=True)
class Chart:
    """One plot: where it belongs and how its file is named, what it says, its axes, its numbers."""

    section: str
    name: str
    title: str
    note: str
    x: str
    y: str
    drawing: Columns | Bars | Heat | Lines


def charts_of(dataset: "Dataset", found: "Survey") -> list[Chart]:
    """Every plot that this data set has something for, from the manifest alone.

    Their numbers are counts in bins: as many for a billion samples as for a thousand.
    """
    from viewmill.shards.survey import class_mixing

    rows = dataset.manifest
    charts = [sizes_chart(rows), side_chart(rows), aspect_chart(rows), bytes_chart(rows)]
    charts += [classes_chart(found), formats_chart(found)]
    charts += [shard_bytes_chart(dataset), shard_samples_chart(dataset)]
    mixing = class_mixing(dataset)
    if mixing is not None:
        charts.append(mixing_chart(mixing))
    if found.duplicates.groups:
        charts.append(duplicates_chart(found))
    if found.quarantined:
        charts.append(quarantine_chart(found))
    return charts


def left_out(charts: list[Chart]) -> list[str]:
    """Why a plot that other data sets have is not among these, a line each."""
    reasons = {
        "class_mixing": "class_mixing: all samples are in one shard or of one class",
        "duplicates": "duplicates: no two samples hold the same bytes",
        "quarantine": "quarantine: every input became a sample",
    }
    names = {chart.name for chart in charts}
    return [reason for name, reason in reasons.items() if name not in names]


def sizes_chart(rows: np.ndarray) -> Chart:
    """Width against height, or the sizes themselves where they are few."""
    packed = (rows["width"].astype(np.int64) << 32) | rows["height"]
    sizes, counts = np.unique(packed, return_counts=True)
    if len(sizes) <= FEW_SIZES:
        order = np.argsort(-counts, kind="stable").tolist()
        names = [f"{sizes[i] >> 32} × {sizes[i] & 0xFFFFFFFF}" for i in order]
        drawing: Bars | Heat = Bars(names, counts[order].tolist())
        return Chart("sizes", "sizes", "Sizes", "all that occur", "samples", "width × height", drawing)
    x_edges, y_edges, cells = heat(rows["width"], rows["height"])
    drawing = Heat(x_edges, y_edges, cells, nice_ticks(x_edges), nice_ticks(y_edges))
    note = f"{len(sizes):,} different ones; the stronger, the more samples"
    return Chart("sizes", "sizes", "Sizes", note, "width, pixels", "height, pixels", drawing)


def side_chart(rows: np.ndarray) -> Chart:
    """The shorter side: what a crop is cut from."""
    side = np.minimum(rows["width"], rows["height"])
    drawing = columns_of(side)
    below = float(np.mean(side < 224))
    note = f"{100 * below:.1f} % below 224 pixels"
    return Chart("sizes", "shorter_side", "Shorter side", note, "pixels", "samples", drawing)


def aspect_chart(rows: np.ndarray) -> Chart:
    """Width over height on a logarithmic axis, so that portrait and landscape are mirror images."""
    ratio = rows["width"] / rows["height"]
    most = max(float(ratio.max()), 1 / float(ratio.min()), 1.5) * 1.05
    edges = np.geomspace(1 / most, most, 50)  # an odd number of bins: the square has one of its own
    ticks = [(a / b, f"{a}:{b}") for a, b in aspect_ticks(most)]
    drawing = Columns(edges.tolist(), counted(ratio, edges), True, ticks)
    portrait, landscape = 100 * float(np.mean(ratio < 1)), 100 * float(np.mean(ratio > 1))
    note = f"{portrait:.0f} % portrait, {landscape:.0f} % landscape"
    return Chart("sizes", "aspect_ratio", "Aspect ratio", note, "width : height", "samples", drawing)


def aspect_ticks(most: float) -> list[tuple[int, int]]:
    """Ratios to write on an axis from 1 / most to most."""
    near, far = [(4, 3), (2, 1), (3, 1)], [(3, 1), (10, 1), (30, 1), (100, 1)]
    kept = [(a, b) for a, b in (near if most < 4 else far) if a / b <= most]
    return [*((b, a) for a, b in reversed(kept)), (1, 1), *kept]


def bytes_chart(rows: np.ndarray) -> Chart:
    """Bytes of a stored image."""
    size = rows["size"]
    note = f"{figure(float(size.mean()) / 1000)} kB on average"
    return Chart("files", "bytes", "Bytes of an image", note, "bytes", "samples", columns_of(size))


def columns_of(values: np.ndarray) -> Columns:
    """Positive whole numbers in bins; logarithmic unless their range is small."""
    edges, log = bin_edges(values)
    return Columns(edges.tolist(), counted(values, edges), log, nice_ticks(edges.tolist(), log=log))


def classes_chart(found: "Survey") -> Chart:
    """A bar a class where they are few, else all of them as a curve from the largest to the smallest."""
    ordered = sorted(found.per_class.items(), key=lambda item: -item[1])
    note = f"{len(ordered):,}, of {between(ordered[-1][1], ordered[0][1])} samples"
    if list(found.per_class) == [None]:
        note = "no sample has a class"
    if len(ordered) <= MAX_BARS:
        names = ["(no class)" if name is None else shown(name, NAME_LENGTH) for name, _ in ordered]
        bars = Bars(names, [count for _, count in ordered])
        return Chart("classes", "classes", "Classes", note, "samples", "", bars)
    ranks = thinned(len(ordered))
    lines = Lines([rank + 1 for rank in ranks], {"samples": [ordered[rank][1] for rank in ranks]})
    return Chart("classes", "classes", "Classes", note, "class, the largest first", "samples", lines)


def mixing_chart(mixing: "Mixing") -> Chart:
    """How far the classes of each shard are from those of all, beside what chance gives."""
    measured, chance = np.sort(mixing.measured)[::-1], np.sort(mixing.shuffled)[::-1]
    ranks = thinned(len(measured))
    curves = {
        "these shards": [float(measured[rank]) for rank in ranks],
        "labels shuffled": [float(chance[rank]) for rank in ranks],
    }
    note = f"median {np.median(measured):.3f}, with shuffled labels {np.median(chance):.3f}"
    return Chart(
        "classes",
        "class_mixing",
        "Distance of a shard's classes from all",
        note,
        "shard, the least mixed first",
        "total variation",
        Lines([rank + 1 for rank in ranks], curves),
    )


def formats_chart(found: "Survey") -> Chart:
    """Samples by the format that they are stored in."""
    names = [shown(name, NAME_LENGTH) for name in list(found.formats)[:MAX_BARS]]
    bars = Bars(names, list(found.formats.values())[:MAX_BARS])
    note = f"{found.transcoded:,} of {found.num_samples:,} re-encoded"
    return Chart("files", "formats", "Formats", note, "samples", "", bars)


def shard_bytes_chart(dataset: "Dataset") -> Chart:
    """Megabytes of each shard."""
    sizes = np.array([shard.bytes for shard in dataset.info.shards]) / 1e6
    note = f"of {between(float(sizes.min()), float(sizes.max()))} MB"
    return shard_chart("shard_bytes", "Bytes of a shard", note, "MB", sizes)


def shard_samples_chart(dataset: "Dataset") -> Chart:
    """Samples of each shard."""
    samples = np.array([shard.samples for shard in dataset.info.shards], dtype=np.float64)
    note = f"of {between(samples.min(), samples.max())} samples"
    return shard_chart("shard_samples", "Samples of a shard", note, "samples", samples)


def shard_chart(name: str, title: str, note: str, unit: str, values: np.ndarray) -> Chart:
    """A column a shard where they are few, else how often each value occurs."""
    note = f"{len(values):,} {'shards' if len(values) > 1 else 'shard'}, {note}"
    if len(values) <= FEW_SHARDS:
        edges = [number - 0.5 for number in range(len(values) + 1)]
        drawing = Columns(edges, values.tolist(), False, nice_ticks(edges, log=False))
        return Chart("shards", name, title, note, "shard", unit, drawing)
    bins = np.linspace(values.min() * 0.98, values.max() * 1.02 + 1e-6, 49)
    drawing = Columns(bins.tolist(), counted(values, bins), False, nice_ticks(bins.tolist(), log=False))
    return Chart("shards", name, title, note, unit, "shards", drawing)


def between(low: float, high: float) -> str:
    """A range as text, or the one number."""
    return figure(low) if low == high else f"{figure(low)} to {figure(high)}"


def duplicates_chart(found: "Survey") -> Chart:
    """How often images occur that occur more than once."""
    times = sorted(found.duplicates.times.items())
    few, many = times[: FEW_SIZES - 1], times[FEW_SIZES - 1 :]
    names, values = [f"{n:,} times" for n, _ in few], [groups for _, groups in few]
    if many:
        names.append(f"{many[0][0]:,} to {many[-1][0]:,} times")
        values.append(sum(groups for _, groups in many))
    note = f"{found.duplicates.extra:,} samples repeat the bytes of another"
    return Chart(
        "duplicates", "duplicates", "Images that occur", note, "different images", "", Bars(names, values)
    )


def quarantine_chart(found: "Survey") -> Chart:
    """Quarantined inputs by kind of fault."""
    kinds = list(found.reasons.items())[:MAX_BARS]
    bars = Bars([shown(kind, NAME_LENGTH) for kind, _ in kinds], [count for _, count in kinds])
    note = f"{found.quarantined:,} inputs"
    return Chart("quarantine", "quarantine", "Quarantined, by kind", note, "inputs", "", bars)
