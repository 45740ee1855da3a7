"""Readers of converted data sets, ours and others', each as a function from a data set to its samples.

A container format is an entry of `CONTAINERS`: how a source becomes it, and everything that reads it. Tests
over the entries compare each reader with the manifest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.plan import DEFAULT_SOURCE
from viewmill.shards.convert import convert_with
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions

DALI_BATCH = 64
SIDE = 32


class Sample(NamedTuple):
    """What a reader gives for one sample; label -1: none."""

    key: str
    label: int
    data: bytes


Reader = Callable[[Path], Iterator[Sample]]


class Picture(NamedTuple):
    """What a reader shows of one sample: its middle square, scaled to `SIDE` pixels."""

    label: int
    pixels: np.ndarray


@dataclass(frozen=True)
class Container:
    """A container format: the option that writes it; by name, what reads its bytes or shows its pixels."""

    format: str
    readers: dict[str, Reader]
    viewers: dict[str, Callable[[Path], Iterator[Picture]]]

    def write(
        self, source: Path, dataset: Path, limit: int | None = None, reading: SourceOptions = DEFAULT_SOURCE
    ) -> None:
        convert_with(source, dataset, Options(limit=limit, format=self.format), reading=reading, workers=2)


def by_manifest(path: Path) -> Iterator[Sample]:
    """Our own reader, by offset, a few at a time."""
    with Dataset.open(path) as dataset:
        for start in range(0, dataset.num_samples, DALI_BATCH):
            ids = range(start, min(start + DALI_BATCH, dataset.num_samples))
            yield from map(Sample, dataset.keys(ids), dataset.labels(ids).tolist(), dataset.read(ids))


def shards_of(path: Path) -> list[Path]:
    """The tars in the order of the ids."""
    return sorted(path.glob("train-*.tar"))


def by_webdataset(path: Path) -> Iterator[Sample]:
    """The webdataset library; it cuts a member's name at its first dot."""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    tars = [str(tar) for tar in shards_of(path)]
    for sample in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False):
        (data,) = [sample[ext] for ext in ("jpg", "png", "webp") if ext in sample]
        yield Sample(sample["__key__"], int(sample["cls"]), data)


def by_dali(path: Path) -> Iterator[Sample]:
    """DALI's own reader on the CPU, by our indexes; one epoch, whose length is what it counts itself."""
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    tars = shards_of(path)
    pipe = dali.Pipeline(batch_size=DALI_BATCH, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipe:
        outputs = dali.fn.readers.webdataset(
            name="reader",
            paths=[str(tar) for tar in tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
            ext=["jpg;png;webp", "cls"],
            missing_component_behavior="error",
        )
        pipe.set_outputs(*outputs)
    pipe.build()
    left = int(pipe.reader_meta("reader")["epoch_size"])
    while left:
        images, labels = pipe.run()
        for row in range(min(left, DALI_BATCH)):
            # 'SHARD:OFFSET:MEMBER', where the shard's path may hold a colon and a member may not.
            member = images[row].source_info().rpartition(":")[2]
            label = int(labels.at(row).tobytes())
            yield Sample(member.partition(".")[0], label, images.at(row).tobytes())
        left -= min(left, DALI_BATCH)


def by_ffcv(path: Path) -> Iterator[Picture]:
    """FFCV's own Loader, one shard after another."""
    pytest.importorskip("ffcv", reason="FFCV is not installed")
    from tests.after_ffcv import ffcvs_changes_undone

    with ffcvs_changes_undone():
        for shard in sorted(path.glob("train-*.beton")):
            yield from shown_by_ffcv(shard)


def shown_by_ffcv(shard: Path) -> Iterator[Picture]:
    """The pictures of a shard in its order."""
    from ffcv.fields.decoders import CenterCropRGBImageDecoder, IntDecoder
    from ffcv.loader import Loader, OrderOption

    square = CenterCropRGBImageDecoder((SIDE, SIDE), 1)
    loader = Loader(
        str(shard),
        batch_size=1,  # a larger one would put images of different sizes into one buffer
        num_workers=1,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        pipelines={"image": [square], "label": [IntDecoder()]},
    )
    for images, labels in loader:
        yield Picture(int(labels[0, 0]), np.array(images[0]))


def as_ffcv_shows(rgb: np.ndarray) -> np.ndarray:
    """A picture's middle square, scaled by FFCV's own function: (SIDE, SIDE, 3) uint8."""
    from ffcv.fields.rgb_image import get_center_crop
    from ffcv.libffcv import resize_crop

    top, left, height, width = get_center_crop(*rgb.shape[:2], None, 1)
    shown = np.zeros((SIDE, SIDE, 3), np.uint8)
    resize_crop(rgb, top, top + height, left, left + width, shown)
    return shown


CONTAINERS = {
    "webdataset": Container("webdataset", {"webdataset": by_webdataset, "DALI": by_dali}, {}),
    "ffcv": Container("ffcv", {}, {"FFCV": by_ffcv}),
}
