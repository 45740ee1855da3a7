"""The images of a run: how many, and how large; of a data set, or as told."""

from pathlib import Path

import numpy as np
from pydantic import Field
from viewmill.engine.strict import StrictModel
from viewmill.shards.manifest import Dataset


class Images(StrictModel):
    """Counts and means over a data set."""

    count: int = Field(ge=1)
    mean_bytes: float = Field(gt=0)
    mean_pixels: float = Field(gt=0)  # width x height

    @property
    def total_bytes(self) -> float:
        return self.count * self.mean_bytes


# ImageNet-1k's training set: 1,281,167 images; 109.6 KB and 500 x 375 pixels are the mean and the median of a
# sample of 998.
IMAGENET = Images(count=1_281_167, mean_bytes=110_000.0, mean_pixels=187_500.0)


def images_of(data: str) -> Images:
    """Of a data set's manifest.

    Raises:
        FileNotFoundError, ShardError: there is none, or it is damaged.
    """
    with Dataset.open(data if "://" in data else Path(data)) as dataset:
        return images_in(dataset)


def images_in(dataset: Dataset) -> Images:
    """Of a data set that is open."""
    rows = dataset.manifest
    pixels = rows["width"].astype(np.int64) * rows["height"].astype(np.int64)
    return Images(
        count=dataset.num_samples,
        mean_bytes=float(rows["size"].mean()),
        mean_pixels=float(pixels.mean()),
    )
