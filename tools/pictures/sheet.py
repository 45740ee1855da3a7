"""Sheets of photographs: rows and columns of squares with a word or two below, and a caption."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from viewmill.tools.contact_sheet import fitted
from viewmill.tools.html_page import shown
from viewmill.tools.pictures.theme import Theme

GAP, EDGE, FRAME = 8, 14, 4  # pixels
WIDEST = 1240  # pixels of a sheet, where its columns leave a choice
MIN_SIDE, MAX_SIDE = 72, 224
TEXT, SMALL = 13, 11  # pixels


@dataclass(frozen=True)
class Cell:
    """A square of a sheet."""

    pixels: np.ndarray | None  # (h, w, 3) uint8; None: an empty place
    text: str = ""
    frame: str = ""  # "good", "bad" or none: a colour of the theme


@dataclass(frozen=True)
class Sheet:
    """Rows of cells under the headings of their columns; rows may be shorter than others."""

    rows: Sequence[Sequence[Cell]]
    headings: Sequence[str] = ()

    def side(self) -> int:
        """Pixels of a square: as many as fit into the widest sheet."""
        columns = max(len(row) for row in self.rows)
        return int(np.clip((WIDEST - 2 * EDGE) // columns - GAP, MIN_SIDE, MAX_SIDE))


def draw_sheet(sheet: Sheet, title: str, caption: str, theme: Theme) -> Image.Image:
    """The sheet with its title above and its caption below."""
    side = sheet.side()
    columns = max(len(row) for row in sheet.rows)
    width = max(2 * EDGE + columns * (side + GAP) - GAP, 420)
    words = textwrap.wrap(caption, max(40, (width - 2 * EDGE) // 6))
    has_text = any(cell.text for row in sheet.rows for cell in row)
    step = side + GAP + ((SMALL + 5) if has_text else 0)
    top = EDGE + TEXT + 14 + ((SMALL + 8) if sheet.headings else 0)
    height = top + len(sheet.rows) * step + 6 + len(words) * (SMALL + 4) + EDGE
    picture = Image.new("RGB", (width, height), theme.card)
    pen = ImageDraw.Draw(picture)
    pen.text((EDGE, EDGE), title, fill=theme.ink, font=font(TEXT + 2))
    for column, heading in enumerate(sheet.headings):
        place = (EDGE + column * (side + GAP), top - SMALL - 8)
        pen.text(place, cut(heading, side, SMALL), fill=theme.soft, font=font(SMALL))
    for number, row in enumerate(sheet.rows):
        for column, cell in enumerate(row):
            corner = (EDGE + column * (side + GAP), top + number * step)
            draw_cell(picture, pen, cell, corner, side, theme)
    for number, line in enumerate(words):
        place = (EDGE, top + len(sheet.rows) * step + 6 + number * (SMALL + 4))
        pen.text(place, line, fill=theme.soft, font=font(SMALL))
    return picture


def draw_cell(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    cell: Cell,
    corner: tuple[int, int],
    side: int,
    theme: Theme,
) -> None:
    """The square, its frame inside its edges, and its text below."""
    if cell.pixels is None:
        return
    left, top = corner
    small = fitted(cell.pixels, side)
    picture.paste(small, (left + (side - small.width) // 2, top + (side - small.height) // 2))
    if cell.frame:
        box = (left, top, left + side - 1, top + side - 1)
        pen.rectangle(box, outline=getattr(theme, cell.frame), width=FRAME)
    if cell.text:
        pen.text((left, top + side + 2), cut(cell.text, side, SMALL), fill=theme.soft, font=font(SMALL))


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own."""
    return ImageFont.load_default(size)


def cut(text: str, width: int, size: int) -> str:
    """As much of a text as goes into so many pixels; control characters as escapes."""
    words, pen = shown(text), font(size)
    if pen.getlength(words) <= width:
        return words
    while words and pen.getlength(words + "…") > width:
        words = words[:-1]
    return words + "…"


def heated(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """An image under a map of heat (0 to 1, any size): grey where it is cold, bright where it is hot.

    Args:
        pixels: (S, S, 3) uint8; heat: (h, w) float.
    """
    import matplotlib as mpl

    side = (pixels.shape[1], pixels.shape[0])
    large = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(side, Image.Resampling.BILINEAR))
    large = np.clip(large, 0, 1)[..., None]
    colours = mpl.colormaps["inferno"](large[..., 0])[..., :3]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True) / 255, 3, axis=2)
    mixed = 0.45 * grey + 0.55 * colours
    return np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)


def enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) float 0..1 as uint8 (side, side, 3), each place a square of its own colour."""
    small = Image.fromarray(np.rint(255 * pixels).astype(np.uint8))
    return np.asarray(small.resize((side, side), Image.Resampling.NEAREST))
