"""Floors: what the same nearest-neighbour test finds without any learning, from pixels and from colours.

A learned representation that does not clearly beat these has learned little.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from viewmill.engine.evaluation.features import gather_rows
from viewmill.engine.evaluation.knn import nearest, vote
from viewmill.engine.passes.reading import Reading, together
from viewmill.pipelines.passes import ids_of_rank
from viewmill.shards.errors import ImageError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset

SIDE = 32  # pixels
BINS = 4  # of each channel: 64 colours
NEIGHBOURS, TEMPERATURE = 20, 0.07
PROTOCOL = f"floors-v1/{SIDE}x{SIDE}-box/knn-{NEIGHBOURS}/cosine/weighted-{TEMPERATURE}"
READ_BLOCK = 256  # images whose bytes are held at once


def thumbnails(dataset: Dataset, reading: Reading, what: str = "thumbnails") -> Tensor:
    """Every image squeezed to 32 x 32 pixels, each the mean of those it stands for; on every rank.

    Returns:
        (N, 32, 32, 3) uint8, red green blue.

    Raises:
        ImageError: an image that cannot be decoded, with its key (RankError on the other ranks).
        ShardError: bytes that are not those that were written.
    """
    share = together(reading.world, lambda: torch.from_numpy(_own_thumbnails(dataset, reading, what)))
    return gather_rows(share, dataset.num_samples, reading.world)


def raw_pixels(images: Tensor) -> Tensor:
    """(n, 32, 32, 3) uint8 -> (n, 3072): the pixels less the image's mean over all of them."""
    pixels = images.flatten(1).float() / 255
    return pixels - pixels.mean(dim=1, keepdim=True)


def color_histogram(images: Tensor) -> Tensor:
    """(n, 32, 32, 3) uint8 -> (n, 64): square roots of the shares of 4 x 4 x 4 colours.

    The dot product of two is the Bhattacharyya coefficient of the histograms.
    """
    levels = (images.flatten(1, 2) // (256 // BINS)).long()  # (n, pixels, 3)
    colors = (levels[..., 0] * BINS + levels[..., 1]) * BINS + levels[..., 2]
    counts = torch.zeros(len(images), BINS**3).scatter_add_(
        1, colors, torch.ones_like(colors, dtype=torch.float)
    )
    return (counts / colors.shape[1]).sqrt()


def floor_accuracies(
    train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor, num_classes: int
) -> dict[str, float]:
    """Top-1 shares of weighted k-NN, k = 20 (or all of a smaller bank), on pixels and on colours."""
    found = {}
    for name, describe in (("raw_pixels", raw_pixels), ("histogram", color_histogram)):
        bank = describe(train_images)
        neighbours = nearest(describe(test_images), bank, min(NEIGHBOURS, len(bank)))
        predicted = vote(neighbours, train_labels, num_classes, TEMPERATURE)[:, 0]
        found[name] = (predicted == test_labels).double().mean().item()
    return found


def _own_thumbnails(dataset: Dataset, reading: Reading, what: str) -> np.ndarray:
    """(share of this rank, 32, 32, 3) uint8."""
    share = ids_of_rank(dataset.num_samples, reading.world.rank, reading.world.world_size)
    small = np.empty((len(share), SIDE, SIDE, 3), dtype=np.uint8)
    with ThreadPoolExecutor(reading.num_threads) as pool:
        for ids in _blocks(share):
            done = ids[-1] + 1 - share.start
            for sample, image in zip(ids, pool.map(_thumbnail, dataset.read(ids)), strict=True):
                if isinstance(image, ImageError):
                    raise ImageError(f"{dataset.shown}: sample '{dataset.keys([sample])[0]}': {image}")
                small[sample - share.start] = image
            reading.tell(what, int(done), len(share))
    return small


def _blocks(share: range) -> Iterator[np.ndarray]:
    for start in range(share.start, share.stop, READ_BLOCK):
        yield np.arange(start, min(start + READ_BLOCK, share.stop))


def _thumbnail(data: bytes) -> np.ndarray | ImageError:
    try:
        upright = Image.fromarray(decode_rgb(data))
    except ImageError as error:  # the caller knows the key
        return error
    return np.asarray(upright.resize((SIDE, SIDE), Image.Resampling.BOX))
