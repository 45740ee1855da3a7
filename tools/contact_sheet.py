"""Contact sheets: a row an image, its original and its planned views side by side."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from viewmill.pipelines.executors.reference import render_view
from viewmill.pipelines.views import ViewPlanner, ViewSpec
from viewmill.shards.errors import ImageError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset

GAP = 4  # pixels between pictures
BACKGROUND = (128, 128, 128)  # reads on light and dark pages


def contact_sheet(
    dataset: Dataset, ids: np.ndarray, spec: ViewSpec, *, seed: int = 0, epoch: int = 0
) -> Image.Image:
    """The images with these ids and the views that training with this seed makes of them in this epoch.

    Rows are images, columns the original (scaled to fit) and the V views, drawn by the reference executor.
    An image that does not decode shows the reason instead.
    """
    plan = ViewPlanner(spec, seed).draw(epoch, ids, dataset.sizes(ids))
    rows = []
    for row, data in enumerate(dataset.read(ids)):
        try:
            rgb = decode_rgb(data)
        except ImageError as error:
            rows.append([message_picture(str(error), spec.sizes[0])])
            continue
        views = [to_picture(render_view(rgb, plan, row, view, spec)) for view in range(spec.num_views)]
        rows.append([fitted(rgb, spec.sizes[0]), *views])
    return grid(rows, spec)


def sheet_of_views(images: list[bytes], views: list[np.ndarray], spec: ViewSpec) -> Image.Image:
    """Images and the views that were made of them, as they are: V arrays (n, 3, S, S), normalised float."""
    mean, std = (np.array(channel, np.float32)[:, None, None] for channel in (spec.mean, spec.std))
    rows = []
    for row, data in enumerate(images):
        pixels = [((view[row] * std + mean) * 255).transpose(1, 2, 0) for view in views]
        rows.append([fitted(decode_rgb(data), spec.sizes[0]), *map(to_picture, pixels)])
    return grid(rows, spec)


def grid(rows: list[list[Image.Image]], spec: ViewSpec) -> Image.Image:
    """Pictures in rows, each column as wide as its view."""
    widths = [spec.sizes[0], *spec.sizes]
    height = spec.sizes[0]
    lefts = [GAP + sum(widths[:column]) + GAP * column for column in range(len(widths) + 1)]
    sheet = Image.new("RGB", (lefts[-1], GAP + len(rows) * (height + GAP)), BACKGROUND)
    for row, pictures in enumerate(rows):
        for left, width, picture in zip(lefts, widths, pictures, strict=False):
            top = GAP + row * (height + GAP)
            sheet.paste(picture, (left + (width - picture.width) // 2, top + (height - picture.height) // 2))
    return sheet


def to_picture(pixels: np.ndarray) -> Image.Image:
    """(S, S, 3) float32 on 0..255 as a picture."""
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def fitted(rgb: np.ndarray, side: int) -> Image.Image:
    """The whole image, scaled to fit into a square."""
    picture = Image.fromarray(rgb)
    factor = side / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def message_picture(text: str, side: int) -> Image.Image:
    """A dark square with a text, for an image that cannot be shown."""
    picture = Image.new("RGB", (side, side), (60, 20, 20))
    width = max(8, side // 7)  # characters of the built-in font
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    ImageDraw.Draw(picture).multiline_text((4, 4), "\n".join(lines), fill=(255, 220, 220))
    return picture


def spread_ids(num_samples: int, count: int) -> np.ndarray:
    """`count` ids, evenly spread over the data set (which is shuffled: they are of mixed classes)."""
    count = min(count, num_samples)
    return np.arange(count, dtype=np.int64) * num_samples // count


def save_picture(picture: Image.Image, path: Path) -> None:
    """Writes a PNG.

    Raises:
        ValueError: the folder is not there, or the name is not one of a PNG.
    """
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the picture is a PNG; give a name that ends in .png")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; make it first")
    picture.save(path, "PNG")
