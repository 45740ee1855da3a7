"""Labelled tiles of the photographs that scikit-image and scikit-learn carry inside their wheels.

A photograph is a class. It is divided into cells; some belong to the test tiles, the others to the training
tiles, and a tile never leaves its cell: no pixel is seen by both. Which tile is cut where, and how its light
and colours vary, is a function of (seed, split, photograph, tile) alone.
"""

import importlib.util
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from viewmill.pipelines.philox import check_seed, philox, uniform

SPLITS = ("train", "test")
# Class name: package that carries the photograph, and the file inside it.
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "page": ("skimage", "data/page.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "text": ("skimage", "data/text.png"),
    "tissue": ("skimage", "data/ihc.png"),
}
CELL = 128  # pixels, about: cells fill the photograph evenly
MIN_SIDE_FRACTION = 0.6  # of its cell's shorter side: the smallest cut
TEST_FRACTION = 0.25  # of a photograph's cells
# Standard deviation of the grey values, 0..255: a cut of even sky or black border shows no photograph.
MIN_CONTRAST = 10.0
CUT_TRIES = 16
JPEG_QUALITY = 92
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Box:
    """A square of a photograph, pixels."""

    top: int
    left: int
    side: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


@dataclass(frozen=True)
class Cell:
    """A rectangle of a photograph, pixels; the ends are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


def load_photograph(name: str) -> np.ndarray:
    """The photograph as RGB, (H, W, 3) uint8.

    Raises:
        RuntimeError: the installed package does not carry it.
    """
    package, inner = PHOTOGRAPHS[name]
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / inner if found and found.origin else None
    if path is None or not path.is_file():
        raise RuntimeError(
            f"photograph '{name}': {package} does not carry {inner}; install scikit-image and scikit-learn "
            "as pyproject.toml asks for them"
        )
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def draws(seed: int, split: str, photograph: int, tile: int, count: int) -> np.ndarray:
    """`count` numbers inside (0, 1) that belong to this tile."""
    check_seed(seed)
    lanes = -(-count // 4)
    counters = np.zeros((4, lanes), dtype=np.uint64)
    counters[0], counters[1] = np.arange(lanes), tile
    counters[2], counters[3] = photograph, SPLITS.index(split)
    return uniform(philox((seed & 0xFFFFFFFF, seed >> 32), counters).T.reshape(-1)[:count])


def cells_of(height: int, width: int, split: str, seed: int, photograph: int) -> list[Cell]:
    """The cells of a photograph that belong to a split; the two splits share no pixel."""
    rows, columns = max(2, round(height / CELL)), max(2, round(width / CELL))
    edges_y = [height * row // rows for row in range(rows + 1)]
    edges_x = [width * column // columns for column in range(columns + 1)]
    cells = [
        Cell(edges_y[row], edges_x[column], edges_y[row + 1], edges_x[column + 1])
        for row in range(rows)
        for column in range(columns)
    ]
    # Tile number -1 as an unsigned word: the words of no tile.
    ranks = draws(seed, "test", photograph, 0xFFFFFFFF, len(cells)).argsort(kind="stable")
    num_test = max(1, round(TEST_FRACTION * len(cells)))
    chosen = ranks[:num_test] if split == "test" else ranks[num_test:]
    return [cells[index] for index in sorted(chosen.tolist())]


def cut_box(grey: np.ndarray, cells: list[Cell], numbers: np.ndarray) -> Box:
    """A square inside one of the cells: the first of CUT_TRIES that shows something, else the last.

    Args:
        grey: the photograph's grey values, (H, W).
        numbers: 4 x CUT_TRIES draws.
    """
    for cell_draw, side_draw, y_draw, x_draw in numbers.reshape(CUT_TRIES, 4):
        cell = cells[int(cell_draw * len(cells))]
        height, width = cell.bottom - cell.top, cell.right - cell.left
        side = round(min(height, width) * (MIN_SIDE_FRACTION + (1 - MIN_SIDE_FRACTION) * side_draw))
        top = cell.top + int(y_draw * (height - side + 1))
        left = cell.left + int(x_draw * (width - side + 1))
        box = Box(top, left, side)
        if grey[box.pixels].std() >= MIN_CONTRAST:
            break
    return box


def vary(tile: np.ndarray, amount: float, numbers: np.ndarray) -> np.ndarray:
    """The tile in another light: mirrored or not, colours paled, contrast, brightness and a colour cast.

    So the colours of a photograph do not tell its tiles; 0 leaves the tile alone.

    Args:
        tile: (S, S, 3) uint8.
        amount: 0 to 1.
        numbers: 7 draws.
    """
    if amount == 0:
        return tile
    mirrored, paling, contrast, brightness = numbers[:4]
    cast = 1 + 0.45 * amount * (2 * numbers[4:7] - 1)
    pixels = tile[:, ::-1] if mirrored < 0.5 else tile
    grey = (pixels @ _GREY)[..., None]
    pixels = grey + (1 - amount * paling) * (pixels - grey)
    pixels = grey.mean() + (1 + 0.6 * amount * (contrast - 0.7)) * (pixels - grey.mean())
    pixels = (pixels + 40 * amount * (2 * brightness - 1)) * cast
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def encode_jpeg(tile: np.ndarray) -> bytes:
    """The tile as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def cut_tiles(
    name: str, split: str, count: int, *, size: int, variation: float, seed: int
) -> Iterator[tuple[Box, np.ndarray]]:
    """The first `count` tiles of a photograph and split: where each was cut, and (size, size, 3) uint8."""
    photo, photograph = load_photograph(name), list(PHOTOGRAPHS).index(name)
    grey = photo @ _GREY
    cells = cells_of(photo.shape[0], photo.shape[1], split, seed, photograph)
    for tile in range(count):
        numbers = draws(seed, split, photograph, tile, 4 * CUT_TRIES + 7)
        box = cut_box(grey, cells, numbers[: 4 * CUT_TRIES])
        square = Image.fromarray(photo[box.pixels]).resize((size, size), Image.Resampling.BICUBIC)
        yield box, vary(np.asarray(square), variation, numbers[4 * CUT_TRIES :])
