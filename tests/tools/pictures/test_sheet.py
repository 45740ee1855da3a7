"""Sheets and plots: what stands where, in which theme."""

import numpy as np
import pytest
from PIL import ImageColor
from viewmill.tools.pictures.plots import Canvas, draw_joint, draw_plane, draw_similarity
from viewmill.tools.pictures.sheet import (
    EDGE,
    GAP,
    SMALL,
    TEXT,
    Cell,
    Sheet,
    cut,
    draw_sheet,
    enlarged,
    heated,
)
from viewmill.tools.pictures.theme import DARK, LIGHT, THEMES, Theme

RED, GREEN, BLUE = (
    np.full((60, 60, 3), colour, np.uint8) for colour in ([200, 0, 0], [0, 200, 0], [0, 0, 200])
)


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_cells_stand_in_rows_and_columns_with_their_frames(theme: Theme) -> None:
    sheet = Sheet([[Cell(RED), Cell(GREEN, "one", "good")], [Cell(BLUE, "two", "bad"), Cell(None)]])
    drawn = np.asarray(draw_sheet(sheet, "title", "caption", theme))
    side, top = sheet.side(), EDGE + TEXT + 14
    step = side + GAP + SMALL + 5
    middle = side // 2

    def at(row: int, column: int, inside: int) -> tuple[int, ...]:
        return tuple(drawn[top + row * step + inside, EDGE + column * (side + GAP) + inside])

    assert at(0, 0, middle) == (200, 0, 0)
    assert at(0, 1, middle) == (0, 200, 0)
    assert at(1, 0, middle) == (0, 0, 200)
    card = ImageColor.getrgb(theme.card)
    assert at(1, 1, middle) == card  # an empty place
    assert at(0, 1, 1) == ImageColor.getrgb(theme.good)
    assert at(1, 0, 1) == ImageColor.getrgb(theme.bad)
    assert at(0, 0, 1) == (200, 0, 0)
    assert tuple(drawn[0, 0]) == card


def test_many_columns_make_smaller_squares_and_a_bounded_sheet() -> None:
    few, many = (Sheet([[Cell(RED)] * count]) for count in (2, 12))
    assert few.side() > many.side()
    assert draw_sheet(many, "", "", LIGHT).width <= 1300


def test_heat_is_bright_and_cold_is_dark() -> None:
    heat = np.zeros((4, 4))
    heat[0, 0] = 1
    drawn = heated(np.full((64, 64, 3), 100, np.uint8), heat).astype(int)
    assert drawn[4, 4].sum() > 2 * drawn[60, 60].sum()
    assert heat.max() == 1  # the map is not changed


def test_a_long_text_is_cut_to_its_width_and_control_characters_are_shown() -> None:
    assert cut("short", 200, 11) == "short"
    assert cut("x" * 400, 80, 11).endswith("…")
    assert "\u202e" not in cut("\u202egnp", 200, 11)


def test_places_keep_their_colours_when_enlarged() -> None:
    small = np.array([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 0]]])
    large = enlarged(small, 8)
    assert large.shape == (8, 8, 3)
    assert [large[1, 1].tolist(), large[1, 6].tolist(), large[6, 1].tolist()] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]


def test_plots_are_drawn_on_the_card_of_their_theme() -> None:
    draws = np.random.default_rng(0)
    joint = draws.uniform(0.05, 0.2, (12, 12))
    painters = (
        lambda figure: draw_similarity(figure, np.eye(3), ["a", "$\\frac$", "c" * 80], "of their own"),
        lambda figure: draw_similarity(figure, np.eye(80), ["x"] * 80, "of their own"),
        lambda figure: draw_joint(figure, joint, 4, np.ones((3, 3)) - np.eye(3)),
        lambda figure: draw_plane(figure, draws.normal(size=(30, 2)), np.arange(30) % 4 - 1, ["a", "b", "c"]),
    )
    for painter, theme in zip(painters, (LIGHT, DARK, LIGHT, DARK), strict=True):
        drawn = np.asarray(Canvas(theme, "title", "caption " * 60, 4.0).draw(painter))
        assert tuple(drawn[0, 0]) == ImageColor.getrgb(theme.card)
        assert drawn.std() > 5


def test_the_heat_map_has_its_brightest_cell_where_classes_are_alike() -> None:
    """Two matrices that differ in one pair: only there, and in the mirror of it, do the pictures differ."""
    plain, kindred = np.eye(4), np.eye(4)
    kindred[0, 3] = kindred[3, 0] = 1
    pair = [
        np.asarray(
            Canvas(LIGHT, "t", "c", 4.0).draw(
                lambda figure, m=matrix: draw_similarity(figure, m, list("abcd"), "o")
            )
        )
        for matrix in (plain, kindred)
    ]
    changed = (pair[0].astype(int) != pair[1]).any(axis=2)
    rows, columns = np.nonzero(changed)
    middle = ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2)
    upper_right = (rows < middle[0]) & (columns > middle[1])
    lower_left = (rows > middle[0]) & (columns < middle[1])
    assert (upper_right | lower_left).all()
    assert upper_right.any()
    assert lower_left.any()
    brighter = pair[1].astype(int).sum(axis=2) - pair[0].astype(int).sum(axis=2)
    assert brighter[changed].mean() > 100
