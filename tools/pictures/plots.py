"""Pictures that are no photographs: matrices, points on a plane, curves."""

import io
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from viewmill.tools.html_page import shown
from viewmill.tools.pictures.theme import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

WIDTH, DPI = 7.2, 150  # inches
# Of plasma: all of them three to one or more against the page.
SHADES = {"light": (0.0, 0.6), "dark": (0.45, 1.0)}
MAX_NAMES = 60  # on an axis: more cannot be read
NAME_LENGTH = 28  # characters
MAX_COLOURS = 20  # classes that a plane tells apart by colour
ZOOM_FROM = 8  # points of a curve: from so many on its second half is drawn once more


@dataclass(frozen=True)
class Curve:
    """What the runs of one setting came to along the training: their mean, and the least and the largest."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: int


@dataclass(frozen=True)
class Canvas:
    """A figure in a theme, with a title above and a caption below."""

    theme: Theme
    title: str
    caption: str
    height: float  # inches

    def draw(self, painter: Callable[["Figure"], None]) -> "Image":
        """What `painter(figure)` draws, as an image; nothing of pyplot's global state is used."""
        import matplotlib as mpl
        import matplotlib.style
        from matplotlib.figure import Figure
        from PIL import Image

        with mpl.style.context(["default", self.theme.style()]), warnings.catch_warnings():
            # The built-in font lacks some scripts; it draws a box, and the page has the name.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            figure = Figure(figsize=(WIDTH, self.height), layout="constrained")
            painter(figure)
            figure.suptitle(self.title, x=0.012, ha="left", fontsize=11, fontweight="bold")
            words = "\n".join(textwrap.wrap(self.caption, 135))
            figure.supxlabel(words, fontsize=6.5, color=self.theme.soft, x=0.012, ha="left")
            buffer = io.BytesIO()
            figure.savefig(buffer, dpi=DPI, format="png")
        with Image.open(buffer) as drawn:
            return drawn.convert("RGB")


def draw_similarity(figure: "Figure", cosine: np.ndarray, names: Sequence[str], order: str) -> None:
    """A heat map of cosines, bright where classes are alike; HyDeS, figure 5."""
    axes = figure.subplots()
    # 0, a right angle, is the dark end, as in the paper; where centroids point apart it goes below.
    low = min(0.0, float(cosine.min()))
    image = axes.imshow(cosine, cmap="viridis", vmin=low, vmax=1, interpolation="nearest")
    name_both(axes, names, order)
    colour_bar(figure, axes, image, "cosine of the class centroids")


def draw_joint(figure: "Figure", corner: np.ndarray, units: int, information: np.ndarray) -> None:
    """The joint matrix of the first variables, block by block, beside what all pairs know of each other."""
    from matplotlib.colors import LogNorm

    left, right = figure.subplots(1, 2)
    shares = corner * units**2  # 1: as often as independent, evenly used units would meet
    norm = LogNorm(0.1, 10)
    image = left.imshow(np.clip(shares, 0.1, 10), cmap="viridis", norm=norm, interpolation="nearest")
    for edge in range(units, len(corner), units):
        left.axhline(edge - 0.5, color="white", linewidth=0.6, alpha=0.7)
        left.axvline(edge - 0.5, color="white", linewidth=0.6, alpha=0.7)
    middles = np.arange(units / 2, len(corner), units) - 0.5
    numbers = [str(number) for number in range(len(middles))]
    for axis in (left.xaxis, left.yaxis):
        axis.set_ticks(middles, labels=numbers)
    left.tick_params(length=0)
    left.set_xlabel("variable")
    left.set_ylabel("variable")
    left.set_title(f"joint probabilities × {units}²", fontsize=9, loc="left")
    bar = colour_bar(figure, left, image, "")
    bar.set_ticks([0.1, 1, 10], labels=["≤ 0.1", "1", "≥ 10"])
    off_diagonal = information[~np.eye(len(information), dtype=bool)]
    shown_pairs = np.where(np.eye(len(information), dtype=bool), np.nan, information)
    image = right.imshow(shown_pairs, cmap="viridis", vmin=0, vmax=max(off_diagonal.max(), 1e-12))
    right.set_xlabel("variable")
    right.set_ylabel("variable")
    right.set_title("mutual information of pairs", fontsize=9, loc="left")
    colour_bar(figure, right, image, "nats")


def draw_plane(figure: "Figure", places: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """A point an image, coloured by class; labels beyond the colours, and -1, are grey."""
    import matplotlib as mpl

    axes = figure.subplots()
    size = float(np.clip(9000 / len(places), 1.5, 22))
    colours = class_colours(len(names), mpl.rcParams["axes.facecolor"])
    has_colours = len(names) <= MAX_COLOURS
    grey = labels < 0 if has_colours else np.ones(len(labels), dtype=bool)
    style: dict[str, Any] = {"s": size, "linewidths": 0, "alpha": 0.8}
    axes.scatter(*places[grey].T, color=mpl.rcParams["axes.edgecolor"], **style)
    for number, name in enumerate(names if has_colours else ()):
        of_class = labels == number
        if of_class.any():
            axes.scatter(*places[of_class].T, color=colours[number], label=short(name), **style)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    if has_colours and (labels >= 0).any():
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, fontsize=8)


def class_colours(classes: int, page: str) -> np.ndarray:
    """RGB from 0 to 1 for at most 20 classes, `(10 or 20, 3)`; on a dark page a quarter nearer to white."""
    import matplotlib as mpl
    from matplotlib.colors import to_rgb

    palette = mpl.colormaps["tab10" if classes <= 10 else "tab20"]
    colours = palette(np.arange(palette.N))[:, :3]
    return colours if sum(to_rgb(page)) > 1.5 else 0.75 * colours + 0.25


def draw_curves(
    figure: "Figure", curves: Mapping[str, Curve], x: str, y: str, *, percent: bool, theme: Theme
) -> None:
    """A line a setting, from dark to bright in their order; below it the second half of the training."""
    import matplotlib as mpl

    ends = [curve.x[-1] for curve in curves.values()]
    has_zoom = min(len(curve.x) for curve in curves.values()) >= ZOOM_FROM
    panels = figure.subplots(2 if has_zoom else 1, 1, squeeze=False)[:, 0]
    low, high = SHADES[theme.name]
    shades = mpl.colormaps["plasma"](np.linspace(low, high, len(curves)))
    is_whole = all((curve.x == np.round(curve.x)).all() for curve in curves.values())
    for panel, axes in enumerate(panels):
        for (name, curve), shade in zip(curves.items(), shades, strict=True):
            factor = 100 if percent else 1
            chosen = curve.x >= (max(ends) / 2 if panel else -np.inf)
            x_shown, marker = curve.x[chosen], "o" if len(curve.x) <= 20 else None
            style: dict[str, Any] = {"color": shade, "marker": marker, "markersize": 3}
            axes.plot(x_shown, factor * curve.middle[chosen], label=short(name), **style)
            if curve.runs > 1:
                band = (factor * curve.low[chosen], factor * curve.high[chosen])
                axes.fill_between(x_shown, *band, color=shade, alpha=0.18, linewidth=0)
        axes.set_ylabel(y)
        axes.grid(True, axis="y")
        axes.locator_params(axis="x", integer=is_whole)  # measured between epochs: no tick at 1.25
    panels[-1].set_xlabel(x)
    panels[0].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    if has_zoom:
        panels[1].set_title("the second half", fontsize=8.5, loc="left", color=theme.soft)


def name_both(axes: "Axes", names: Sequence[str], order: str) -> None:
    """Names on both axes where they can be read, else what the order is."""
    if len(names) > MAX_NAMES:
        axes.set_xlabel(f"{len(names):,} classes, {order}")
        axes.set_ylabel("classes")
        return
    size = float(np.clip(260 / len(names), 4, 8.5))
    places = range(len(names))
    axes.set_xticks(places, labels=[short(name) for name in names], rotation=90, fontsize=size)
    axes.set_yticks(places, labels=[short(name) for name in names], fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel(order)


def colour_bar(figure: "Figure", axes: "Axes", image: Any, label: str) -> Any:
    """The scale beside a matrix."""
    bar = figure.colorbar(image, ax=axes, label=label, shrink=0.7, pad=0.02)
    bar.outline.set_visible(False)
    return bar


def short(name: str) -> str:
    """A name for an axis."""
    return shown(name, NAME_LENGTH)
