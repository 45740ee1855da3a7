"""A picture of segmentations: image, true classes, and the classes that two backbones see, with a key."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from viewmill.engine.evaluation.dense.pairs import Labelled
    from viewmill.engine.evaluation.dense.segmentation import Shown

HEIGHT = 160  # of a picture, pixels
GAP = 6  # between pictures
LINE = 16  # of text
BACKGROUND = (255, 255, 255)
TEXT = (20, 20, 20)
IGNORED = (224, 224, 192)  # as VOC's own palette has its borders
TITLES = ("image", "truth", "trained", "untrained")


def palette(num_colors: int) -> np.ndarray:
    """(num_colors, 3) uint8: the colour map of PASCAL VOC's development kit.

    Three by three, the lowest bits of a number are the highest of its red, green and blue: 0 is black, and
    any 256 numbers differ.
    """
    colors = np.zeros((num_colors, 3), np.uint8)
    numbers = np.arange(num_colors)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((numbers >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def colored(mask: np.ndarray, num_classes: int) -> np.ndarray:
    """(h, w) classes -> (h, w, 3) uint8; what is no class has the colour of what is ignored."""
    colors = np.vstack([palette(num_classes), np.array([IGNORED], np.uint8)])
    return colors[np.minimum(mask.astype(np.int64), num_classes)]


def mask_sheet(shown: Sequence["Shown"], data: "Labelled") -> Image.Image:
    """Rows are test pictures; columns image, truth, and both predictions; below, the classes' colours.

    Ignored pixels are pale in the truth, and in the predictions what the probe says there.
    """
    num_classes = len(data.classes)
    rows = []
    for one in shown:
        masks = [colored(mask, num_classes) for mask in (one.truth, one.trained, one.untrained)]
        rows.append([_fitted(pixels) for pixels in (one.image, *masks)])
    width = max((picture.width for row in rows for picture in row), default=HEIGHT)
    key = _key([*data.classes, "ignored"], len(TITLES) * (width + GAP) - GAP)
    top = GAP + LINE
    size = (len(TITLES) * (width + GAP) + GAP, top + len(rows) * (HEIGHT + GAP) + key.height + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(TITLES):
        draw.text((GAP + column * (width + GAP), GAP // 2), title, fill=TEXT)
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (GAP + column * (width + GAP), top + row * (HEIGHT + GAP)))
    sheet.paste(key, (GAP, top + len(rows) * (HEIGHT + GAP)))
    return sheet


def _fitted(pixels: np.ndarray) -> Image.Image:
    """Scaled to the height of a row; nearest pixels, so that no colour of a class is mixed."""
    picture = Image.fromarray(pixels)
    width = max(1, round(picture.width * HEIGHT / picture.height))
    return picture.resize((width, HEIGHT), Image.Resampling.NEAREST)


def _key(names: Sequence[str], width: int) -> Image.Image:
    """Squares of colour with names, as many in a line as fit."""
    colors = [*map(tuple, palette(len(names) - 1).tolist()), IGNORED]
    room = max(80, 30 + 7 * max(map(len, names)))  # the built-in font has about 6 pixels a letter
    in_line = max(1, width // room)
    key = Image.new("RGB", (width, -(-len(names) // in_line) * LINE), BACKGROUND)
    draw = ImageDraw.Draw(key)
    for place, (name, color) in enumerate(zip(names, colors, strict=True)):
        left, top = place % in_line * room, place // in_line * LINE
        draw.rectangle((left, top + 2, left + 12, top + 12), fill=color, outline=TEXT)
        draw.text((left + 18, top + 1), name, fill=TEXT)
    return key
