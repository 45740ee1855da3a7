"""The plots of a data set as PNG files."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from viewmill.tools.html_page import figure
from viewmill.tools.inspection.bins import nice_ticks
from viewmill.tools.inspection.charts import Bars, Chart, Columns, Heat, Lines, Ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Those of the pages in a light browser.
INK, SOFT, LINE, ACCENT, BAR, CARD = "#1c2430", "#5d6878", "#dfe3e9", "#2563a8", "#9aa7b8", "#ffffff"
WIDTH, DPI = 6.4, 150  # inches
# A name with dollars is a name: it is no formula.
STYLE = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "lines.linewidth": 1.6,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "figure.facecolor": CARD,
    "savefig.facecolor": CARD,
}


def write_plots(charts: list[Chart], folder: Path, caption: str) -> list[Path]:
    """A PNG for each chart, FOLDER/NAME.png, the caption below it; the folder is made if only it is missing.

    Raises:
        FileNotFoundError: the folder that it would stand in is not there.
    """
    import matplotlib as mpl
    import matplotlib.style

    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"{folder}: there is no folder {folder.absolute().parent}; make it first")
    folder.mkdir(exist_ok=True)
    written = []
    # Not the user's matplotlibrc: the same data set gives the same picture.
    with mpl.style.context(["default", STYLE]), warnings.catch_warnings():
        # The built-in font lacks some scripts; it draws a box, and the page has the name.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        for chart in charts:
            path = folder / f"{chart.name}.png"
            draw(chart, caption).savefig(path, dpi=DPI)
            written.append(path)
    return written


def draw(chart: Chart, caption: str) -> "Figure":
    """The chart as a figure of its own; nothing of pyplot's global state is used."""
    from matplotlib.figure import Figure

    rows = len(chart.drawing.names) if isinstance(chart.drawing, Bars) else 0
    height = 1.3 + 0.22 * max(rows, 3) if rows else 3.6
    height = 5.2 if isinstance(chart.drawing, Heat) else height
    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = drawn.subplots()
    axes.set_title(chart.title, loc="left", fontsize=11, fontweight="bold", pad=20)
    axes.text(0, 1, chart.note, transform=axes.transAxes, color=SOFT, va="bottom", fontsize=8.5)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    DRAWERS[type(chart.drawing)](axes, chart.drawing)
    drawn.supxlabel(caption, fontsize=6.5, color=SOFT, x=0.01, ha="left")
    return drawn


def draw_columns(axes: "Axes", columns: Columns) -> None:
    """Filled steps on a logarithmic axis, else columns with gaps between them; both from zero."""
    low, high = columns.edges[0], columns.edges[-1]
    if columns.log:
        axes.stairs(columns.heights, columns.edges, fill=True, color=ACCENT, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
    else:
        edges = np.array(columns.edges)
        axes.bar((edges[1:] + edges[:-1]) / 2, columns.heights, 0.86 * np.diff(edges), color=ACCENT)
        spare = max(0, 5 - len(columns.heights)) * (edges[1] - edges[0]) / 2  # one column is no wall
        axes.set_xlim(low - spare, high + spare)
    set_ticks(axes.xaxis, columns.ticks)
    axes.set_ylim(bottom=0)
    count_axis(axes.yaxis)


def draw_bars(axes: "Axes", bars: Bars) -> None:
    """Flat bars, the number at the end of each."""
    places = np.arange(len(bars.names))
    axes.barh(places, bars.values, height=0.66, color=ACCENT)
    axes.set_yticks(places, labels=bars.names)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_ylim(max(len(bars.names), 3) - 0.4, -0.6)
    axes.set_xlim(0, max(bars.values) * 1.14)
    for place, value in zip(places, bars.values, strict=True):
        axes.annotate(
            figure(value),
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=SOFT,
        )
    axes.spines[["bottom"]].set_visible(False)
    axes.set_xticks([])


def draw_heat(axes: "Axes", cells: Heat) -> None:
    """Darker cells hold more, by the logarithm; empty cells are blank."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    counts = np.ma.masked_equal(np.array(cells.counts), 0)
    colours = LinearSegmentedColormap.from_list("accent", ["#cfdff0", ACCENT, "#0f2c4d"])
    norm = LogNorm(1, max(2, counts.max()))
    mesh = axes.pcolormesh(cells.x_edges, cells.y_edges, counts, cmap=colours, norm=norm, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("log")
    set_ticks(axes.xaxis, cells.x_ticks)
    set_ticks(axes.yaxis, cells.y_ticks)
    axes.grid(True)
    bar = axes.figure.colorbar(mesh, ax=axes, label="samples", shrink=0.6, pad=0.02)
    set_ticks(bar.ax.yaxis, nice_ticks([1, max(2, int(counts.max()))]))
    bar.outline.set_visible(False)


def draw_lines(axes: "Axes", lines: Lines) -> None:
    """The data set's curve, and what to compare it with in grey behind it."""
    from matplotlib.ticker import MaxNLocator

    few = "o" if len(lines.x) <= 60 else None
    for number, (name, values) in enumerate(lines.curves.items()):
        colour = BAR if number else ACCENT
        axes.plot(lines.x, values, label=name, color=colour, marker=few, markersize=3, zorder=3 - number)
    axes.set_ylim(bottom=0)
    axes.set_xlim(lines.x[0] - 0.5, lines.x[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    count_axis(axes.yaxis)
    axes.grid(True, axis="y")
    if len(lines.curves) > 1:
        axes.legend(frameon=False, labelcolor=SOFT)


def set_ticks(axis: Any, ticks: Ticks) -> None:
    """These marks and no others."""
    axis.set_ticks([place for place, _ in ticks], labels=[text for _, text in ticks])
    axis.set_ticks([], minor=True)


def count_axis(axis: Any) -> None:
    """1,000 and not 1e3."""
    axis.set_major_formatter(lambda value, _: figure(value))
    axis.grid(True)


DRAWERS: dict[type, Any] = {Columns: draw_columns, Bars: draw_bars, Heat: draw_heat, Lines: draw_lines}
