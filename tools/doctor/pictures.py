"""Images that stand for a data set in a measurement: as large as its own, or as those of a smaller copy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.samples import Samples
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.resize import Resize
from viewmill.shards.errors import ImageError, ShardError
from viewmill.shards.images import decode_picture, decode_rgb, probe
from viewmill.shards.jpeg import encode_jpeg
from viewmill.shards.manifest import Dataset

DRAWN = 4096  # samples among which those of a measurement are chosen by their size
SEVERAL = 20  # tries to find samples that can be used
LEAST_CHANGED = 0.2  # of the images; else smaller copies are not worth a word


class Pictures(NamedTuple):
    """Encoded images with the samples that they are of, and their upright widths and heights."""

    ids: np.ndarray  # (n,) int64
    images: list[bytes]
    sizes: np.ndarray  # (n, 2)

    def parts(self, size: int) -> "list[Pictures]":
        """In batches of so many; the last one may be short."""
        cuts = [slice(start, start + size) for start in range(0, len(self.ids), size)]
        return [Pictures(self.ids[cut], self.images[cut], self.sizes[cut]) for cut in cuts]


class PicturedSamples:
    """A data set with other bytes for some of its samples, and asked for those alone; see `Samples`."""

    is_remote = False

    def __init__(self, dataset: Samples, pictures: Pictures) -> None:
        self._dataset = dataset
        self._rows = {sample: row for row, sample in enumerate(pictures.ids.tolist())}
        self._images, self._sizes = pictures.images, pictures.sizes
        self.num_samples, self.data_set_hash = dataset.num_samples, dataset.data_set_hash
        self.shown = dataset.shown

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        """Copies, as if they had been read."""
        return [bytes(bytearray(self._images[row])) for row in self._rows_of(ids)]

    def stored_bytes(self, ids: Sequence[int] | np.ndarray) -> int:
        return sum(len(self._images[row]) for row in self._rows_of(ids))

    def sizes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._sizes[self._rows_of(ids)]

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._dataset.labels(ids)

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return self._dataset.keys(ids)

    def prefetch(self, ids: Sequence[int] | np.ndarray) -> None:
        """Nothing: they are there."""

    def _rows_of(self, ids: Sequence[int] | np.ndarray) -> list[int]:
        return [self._rows[int(sample)] for sample in ids]


def choose(dataset: Dataset, order: Order, count: int) -> Pictures:
    """`count` images whose pixels are spread as the data set's, and have nearly its mean.

    Few images taken at random would decode faster or slower than most. Of `DRAWN` in the order of their
    pixels each of `count` equal parts gives the one nearest to the part's mean; the order is random again.

    Raises:
        RuntimeError: several choices held a sample that cannot be used.
    """
    drawn = np.unique(order.ids(0, 0, min(DRAWN, order.num_samples)))
    pixels = dataset.sizes(drawn).prod(axis=1)
    by_pixels = np.argsort(pixels, kind="stable")
    parts = np.array_split(by_pixels, min(count, len(by_pixels)))
    nearest = [part[np.argsort(abs(pixels[part] - pixels[part].mean()), kind="stable")] for part in parts]
    for attempt in range(SEVERAL):
        ids = drawn[[part[attempt % len(part)] for part in nearest]]
        found = _usable(dataset, np.random.default_rng(0).permutation(np.resize(ids, count)))
        if found is not None:
            return found
    raise RuntimeError(
        f"{dataset.shown}: {SEVERAL} choices of {count} samples each held one that cannot be used; "
        "run: viewmill verify"
    )


def _usable(dataset: Dataset, ids: np.ndarray) -> Pictures | None:
    try:
        found = Pictures(ids, dataset.read(ids), dataset.sizes(ids))
        for image in found.images:
            decode_rgb(image)
    except (ShardError, ImageError):
        return None
    return found


def resized(pictures: Pictures, short: int) -> Pictures | None:
    """The pictures as `convert --resize short=N` stores them; None: hardly any JPEG is larger."""
    resize, quality = Resize("short", short), Options().quality
    images, sizes, changed = [], [], 0
    for image, size in zip(pictures.images, pictures.sizes.tolist(), strict=True):
        if not resize.shrinks(*size) or probe(image).format != "JPEG":
            images.append(image)
            sizes.append(size)
            continue
        rgb = resize.apply(decode_picture(image))
        images.append(encode_jpeg(rgb, quality))
        sizes.append([rgb.shape[1], rgb.shape[0]])
        changed += 1
    if changed < LEAST_CHANGED * len(images):
        return None
    return Pictures(pictures.ids, images, np.array(sizes))
