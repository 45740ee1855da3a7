"""Curves that can be read: their lines against the page, and the ticks below them."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from viewmill.tools.pictures.plots import SHADES, Curve, class_colours, draw_curves
from viewmill.tools.pictures.theme import DARK, THEMES, Theme


def contrast(colour: Sequence[float], page: str) -> float:
    """Ratio of WCAG 2.2, 1 to 21."""
    one, other = luminance(colour), luminance(to_rgb(page))
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def luminance(colour: Sequence[float]) -> float:
    """Relative luminance of WCAG 2.2, 0 to 1."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_every_line_stands_out_from_its_page(theme: Theme) -> None:
    for share in np.linspace(*SHADES[theme.name], 9):
        assert contrast(mpl.colormaps["plasma"](share), theme.card) >= 3


@pytest.mark.parametrize("classes", [10, 20])
def test_every_class_stands_out_from_a_dark_page(classes: int) -> None:
    colours = class_colours(classes, DARK.card)
    assert len({tuple(colour) for colour in colours}) == classes
    assert all(contrast(colour, DARK.card) >= 4 for colour in colours.tolist())


@pytest.mark.parametrize(("x", "whole"), [((1.0, 2.0, 3.0), True), ((0.2, 0.4, 0.6), False)])
def test_whole_epochs_have_whole_ticks(x: tuple[float, ...], whole: bool) -> None:
    figure, values = Figure(), np.array([0.3, 0.4, 0.5])
    curves = {"one": Curve(np.array(x), values, values, values, runs=1)}
    draw_curves(figure, curves, "epoch", "top-1, %", percent=True, theme=THEMES[0])
    ticks = figure.axes[0].get_xticks()
    assert (ticks == np.round(ticks)).all() == whole
