"""A peer of `bench loader`: FFCV's stock loader, which decodes an image again for every view."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec
from viewmill.shards.manifest import Dataset


@contextmanager
def ffcv_stock(
    beton: Dataset, spec: ViewSpec, batches: list[np.ndarray], threads: int
) -> Iterator["FfcvStock"]:
    """FFCV's Loader with its own operators; of a beton data set with one shard an id is a row.

    Raises:
        ImportError: FFCV is not installed; names the extra.
        ValueError: the data set has several shards, or another kind.
    """
    if beton.info.kind != "ffcv" or len(beton.info.shards) != 1:
        raise ValueError(
            f"{beton.shown}: FFCV's Loader reads one beton, so a data set of kind ffcv with one shard"
        )
    stock = FfcvStock(Path(beton.shown) / beton.info.shards[0].name, spec, batches, threads)
    yield stock
    stock.close()


class FfcvStock:
    """One pass of FFCV's Loader a view: decode, random resized crop, flip, colours, normalised float32.

    It has no hue, grayscale, blur or solarize, which are left out, in its favour; nor has it hashes to check.
    """

    def __init__(self, beton: Path, spec: ViewSpec, batches: list[np.ndarray], threads: int) -> None:
        self._spec = spec
        self._batches = batches
        self._loaders = {
            view: _loader(beton, view, spec, len(batches[0]), threads) for view in set(spec.views)
        }

    def __call__(self, number: int) -> float:
        """All views of a batch; spends nothing in other processes."""
        for view in self._spec.views:
            loader = self._loaders[view]
            # One batch and no more, or it would run on while its peers are measured.
            loader.indices = self._batches[number % len(self._batches)].astype(np.uint64)
            loader.traversal_order.indices = loader.indices
            for _ in loader:
                pass
        return 0.0

    def close(self) -> None:
        """Lets go of the file."""
        self._loaders.clear()


def _loader(beton: Path, view: ViewDistribution, spec: ViewSpec, batch_size: int, threads: int) -> Any:
    """FFCV's Loader for one kind of view, compiled at its first use."""
    try:
        from ffcv.loader import Loader, OrderOption
    except ImportError as error:
        raise ImportError("this peer needs FFCV: pip install 'viewmill[ffcv]'") from error
    return Loader(
        str(beton),
        batch_size=batch_size,
        num_workers=threads,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        indices=np.arange(batch_size, dtype=np.uint64),
        pipelines={"image": _operations(view, spec), "label": None},
        drop_last=False,
        batches_ahead=1,
    )


def _operations(view: ViewDistribution, spec: ViewSpec) -> list[Any]:
    """The view's distribution in FFCV's operators, as far as it has them."""
    from ffcv.fields.decoders import RandomResizedCropRGBImageDecoder
    from ffcv.transforms import (
        NormalizeImage,
        RandomBrightness,
        RandomContrast,
        RandomHorizontalFlip,
        RandomSaturation,
        ToTensor,
        ToTorchImage,
    )

    mean, std = (255 * np.array(values) for values in (spec.mean, spec.std))
    colours = (
        (RandomBrightness, view.brightness),
        (RandomContrast, view.contrast),
        (RandomSaturation, view.saturation),
    )
    return [
        RandomResizedCropRGBImageDecoder((view.size, view.size), view.scale, view.ratio),
        RandomHorizontalFlip(view.flip),
        *(operator(high - 1, p=view.jitter) for operator, (_, high) in colours if high > 1),
        NormalizeImage(mean, std, np.float32),
        ToTensor(),
        ToTorchImage(channels_last=False),
    ]
