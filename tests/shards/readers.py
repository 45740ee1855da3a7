"""Readers of converted data sets, ours and others', each as a function from a data set to its samples.

A container format is an entry of `CONTAINERS`: how a source becomes it, and everything that reads it. Tests
over the entries compare each reader with the manifest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset

DALI_BATCH = 64


class Sample(NamedTuple):
    """What a reader gives for one sample; label -1: none."""

    key: str
    label: int
    data: bytes


Reader = Callable[[Path], Iterator[Sample]]


@dataclass(frozen=True)
class Container:
    """A container format: `write(source, dataset, **options of convert)`; by name, what else reads it."""

    write: Callable[..., Any]
    readers: dict[str, Reader]


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


CONTAINERS = {
    "webdataset": Container(
        write=convert,
        readers={"webdataset": by_webdataset, "DALI": by_dali},
    ),
}
