"""Masks: the class of every pixel, out of a PNG of indices; and a look at all of them before any training."""

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from viewmill.engine.evaluation.dense.pairs import Labelled, Pair
from viewmill.engine.passes.reading import Progress
from viewmill.shards.errors import ImageError
from viewmill.shards.images import check_decodes, probe

_GREY, _PALETTE = 0, 3  # PNG's colour types
_DEPTH, _COLOR_TYPE = 24, 25  # where a PNG's header has them, bytes


class Looked(NamedTuple):
    """One pair that was looked at."""

    size: tuple[int, int]  # height and width, pixels
    pixels: list[int]  # of each class
    sha256: str  # of the picture's bytes
    mask_sha256: str


@dataclass(frozen=True)
class Survey:
    """What is known of two splits before any training: nothing in them is wrong."""

    train_sizes: list[tuple[int, int]]  # height and width of each picture, pixels
    test_sizes: list[tuple[int, int]]
    train_pixels: list[int]  # of each class
    test_pixels: list[int]
    data_hash: str  # of all bytes, their order, and the ignored value


def decode_mask(data: bytes) -> np.ndarray:
    """A PNG of indices (a palette, or grey of 8 or 16 bits) as (H, W) uint8 or uint16; colours are not asked.

    Raises:
        ImageError: no such PNG, or its pixels do not decode in full.
    """
    info = probe(data)
    if info.format != "PNG":
        raise ImageError(f"a mask is a PNG of class numbers, and this is a {info.format}")
    depth, kind = data[_DEPTH], data[_COLOR_TYPE]
    if kind != _PALETTE and (kind != _GREY or depth not in (8, 16)):
        raise ImageError(
            f"a mask has one channel of class numbers (a palette, or grey of 8 or 16 bits), and this is "
            f"colour type {kind} of {depth} bits"
        )
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            values = np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises whatever it likes on hostile bytes
        raise ImageError(f"the mask does not decode: {' '.join(str(error).split())[:200]}") from error
    return values.astype(np.uint16) if depth == 16 else values


def read_mask(pair: Pair, num_classes: int, ignored: int) -> np.ndarray:
    """The mask of a pair, (H, W), whose values are classes or the ignored one.

    Raises:
        ImageError: it does not decode. ValueError: a value that is no class. Both name the pair.
    """
    try:
        mask = decode_mask(pair.mask.read())
    except ImageError as error:
        raise ImageError(f"mask of {pair.name}: {error}") from error
    wrong = np.unique(mask[(mask >= num_classes) & (mask != ignored)])
    if len(wrong):
        raise ValueError(
            f"mask of {pair.name}: the values {', '.join(map(str, wrong[:5]))} are no classes; there are "
            f"{num_classes} (0 to {num_classes - 1}), and {ignored} is ignored; give --classes and --ignore"
        )
    return mask


def look_at(pair: Pair, num_classes: int, ignored: int) -> Looked:
    """Reads and decodes both files of a pair.

    Raises:
        ImageError, ValueError: one of them is damaged, they differ in size, or a value is no class; all name
            the pair.
    """
    data = pair.image.read()
    try:
        info = probe(data)
        check_decodes(data)
    except ImageError as error:
        raise ImageError(f"image {pair.name}: {error}") from error
    mask = read_mask(pair, num_classes, ignored)
    if mask.shape != (info.height, info.width):
        raise ValueError(
            f"mask of {pair.name}: {mask.shape[1]}x{mask.shape[0]} pixels, its image has "
            f"{info.width}x{info.height}; a mask has the size of its image"
        )
    pixels = np.bincount(mask[mask != ignored], minlength=num_classes)
    digests = [hashlib.sha256(found).hexdigest() for found in (data, pair.mask.read())]
    return Looked((info.height, info.width), pixels.tolist(), *digests)


def survey(data: Labelled, num_threads: int = 2, progress: Progress | None = None) -> Survey:
    """Looks at every picture and mask of both splits; a wrong one is told here and not after hours.

    Raises:
        ImageError, ValueError: as `look_at`; a picture in both splits; or training masks without a class.
    """
    look = partial(look_at, num_classes=len(data.classes), ignored=data.ignored)
    everything = [*data.train, *data.test]
    looked: list[Looked] = []
    with ThreadPoolExecutor(num_threads) as pool:
        for found in pool.map(look, everything):
            looked.append(found)
            if progress is not None:
                progress("masks", len(looked), len(everything))
    train, test = looked[: len(data.train)], looked[len(data.train) :]
    _refuse_shared(data, train, test)
    of_train, of_test = (_sum_of(side, len(data.classes)) for side in (train, test))
    for purpose, pixels in (("learn from", of_train), ("test", of_test)):
        if not any(pixels):
            raise ValueError(
                f"{data.name}: all pixels to {purpose} are ignored; check --ignore {data.ignored}"
            )
    return Survey(
        [one.size for one in train], [one.size for one in test], of_train, of_test, _hash_of(data, looked)
    )


def survey_from(tree: dict[str, Any]) -> Survey:
    """A survey that went through JSON."""
    sizes = {
        name: [(height, width) for height, width in tree[name]] for name in ("train_sizes", "test_sizes")
    }
    return Survey(**{**tree, **sizes})


def _refuse_shared(data: Labelled, train: Sequence[Looked], test: Sequence[Looked]) -> None:
    known = {one.sha256: pair.name for one, pair in zip(train, data.train, strict=True)}
    for one, pair in zip(test, data.test, strict=True):
        if one.sha256 in known:
            raise ValueError(
                f"{data.name}: {pair.name}, which is tested, is the same picture as {known[one.sha256]}, "
                "which is learnt; take it out of one split"
            )


def _sum_of(looked: Sequence[Looked], num_classes: int) -> list[int]:
    return [sum(one.pixels[label] for one in looked) for label in range(num_classes)]


def _hash_of(data: Labelled, looked: Sequence[Looked]) -> str:
    lines = [f"{one.sha256} {one.mask_sha256}" for one in looked]
    head = f"{len(data.train)} {len(data.test)} {len(data.classes)} {data.ignored}"
    return hashlib.sha256("\n".join([head, *lines]).encode()).hexdigest()
