"""Real photographs in every format that is kept as bytes, and the plans and data sets made of them."""

import io
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_image
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec
from viewmill.pipelines.views import ViewPlan, ViewPlanner
from viewmill.shards.convert import convert
from viewmill.shards.images import probe

ORIENTATION = 0x0112  # the EXIF tag


def encode(rgb: np.ndarray, file_format: str, *, orientation: int | None = None, **options: object) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format, exif=exif, **options)
    return buffer.getvalue()


def photographs() -> dict[str, bytes]:
    """Name -> encoded photograph: JPEG colour and grey, turned by EXIF, progressive, PNG and WebP."""
    return dict(_photographs())


@cache  # encoding them takes a third of a second, and tens of tests ask for them
def _photographs() -> dict[str, bytes]:
    flower, china = load_sample_image("flower.jpg"), load_sample_image("china.jpg")
    cat, coffee, rocket = skimage_data.chelsea(), skimage_data.coffee(), skimage_data.rocket()
    return {
        "flower.jpg": encode(flower, "JPEG", quality=90),
        "china, fine chroma.jpg": encode(china, "JPEG", quality=95, subsampling=0),
        "cat, turned right.jpg": encode(cat, "JPEG", orientation=6),
        "coffee, turned left.jpg": encode(coffee, "JPEG", orientation=8),
        "rocket, mirrored.jpg": encode(rocket, "JPEG", orientation=2),
        "cat, turned and mirrored.jpg": encode(cat, "JPEG", orientation=5),
        "coffee, no such orientation.jpg": encode(coffee, "JPEG", orientation=9),
        "coffee, progressive.jpg": encode(coffee, "JPEG", progressive=True),
        "camera, grey.jpg": encode(skimage_data.camera()[::2, ::2], "JPEG"),
        "cat.png": encode(cat, "PNG"),
        "camera, grey.png": encode(skimage_data.camera()[::2, ::2], "PNG"),
        "rocket.webp": encode(rocket, "WEBP", quality=90),
        "cat, lossless.webp": encode(cat, "WEBP", lossless=True),
    }


def sizes_of(images: list[bytes]) -> np.ndarray:
    """(n, 2) upright widths and heights."""
    headers = [probe(image) for image in images]
    return np.array([(header.width, header.height) for header in headers])


def plan_for(spec: ViewSpec, images: list[bytes], *, seed: int = 0, epoch: int = 0) -> ViewPlan:
    return ViewPlanner(spec, seed).draw(epoch, np.arange(len(images)), sizes_of(images))


def plain_spec(size: int = 96, interpolation: str = "bicubic") -> ViewSpec:
    """One view that is a random crop and nothing else."""
    view = ViewDistribution(size=size, scale=(0.2, 0.8), interpolation=interpolation)
    return ViewSpec("plain", (view,))


def changed(plan: ViewPlan, **values: float) -> ViewPlan:
    """The plan with one value of a parameter in all its views."""
    return replace(plan, **{name: np.full_like(getattr(plan, name), value) for name, value in values.items()})


def on_255(view: torch.Tensor, spec: ViewSpec) -> torch.Tensor:
    """Normalised pixels back on 0..255."""
    mean, std = (torch.tensor(channel)[:, None, None] for channel in (spec.mean, spec.std))
    return (view * std + mean) * 255


def write_dataset(folder: Path, num_samples: int, side: int = 48) -> Path:
    """A data set of tiles of one photograph, in three classes."""
    photograph = skimage_data.astronaut()
    for sample in range(num_samples):
        row, column = divmod(sample, 8)
        tile = photograph[row * 40 : row * 40 + side, column * 50 : column * 50 + side + sample % 7]
        path = folder / "photographs" / f"class{sample % 3}" / f"tile{sample:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(tile, "JPEG", quality=90))
    convert(folder / "photographs", folder / "dataset", workers=1)
    return folder / "dataset"
