"""Copies of data sets some of whose images are damaged, and what a Loader makes of them."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from viewmill.pipelines.flow.substitutes import Substitution
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.manifest import RECORD, Dataset

from tests.shards.restating import describe_again


def damaged(whole: Path, folder: Path, flipped: set[int], cut: set[int]) -> Path:
    """A copy in which some images have a flipped bit, and others are cut short with a hash that agrees."""
    shutil.copytree(whole, folder)
    with Dataset.open(whole) as dataset:
        rows, shards = dataset.manifest.copy(), [folder / shard.name for shard in dataset.info.shards]
    for sample in flipped | cut:
        shard, offset, size = (int(rows[name][sample]) for name in ("shard", "offset", "size"))
        with shards[shard].open("r+b") as file:
            file.seek(offset)
            image = bytearray(file.read(size))
            if sample in flipped:
                image[100] ^= 4
                file.seek(offset)
                file.write(image)
            else:
                rows["size"][sample] = size - 300
                rows["xxh64"][sample] = xxhash.xxh64_intdigest(image[:-300])
    (folder / "manifest.bin").write_bytes(rows.astype(RECORD).tobytes())
    describe_again(folder, "manifest.bin")
    return folder


def epoch_of(
    path: Path, spec: ViewSpec, executor: str, **options: Any
) -> tuple[list[Batch], list[Substitution], str]:
    """The first epoch in batches of 6; its substitutions; and the error that ended it, if one did."""
    with (
        Dataset.open(path) as dataset,
        Loader(dataset, spec, 6, executor=executor, num_threads=1, prefetch=1, **options) as loader,
    ):
        batches: list[Batch] = []
        error = ""
        try:
            batches.extend(loader)
        except RuntimeError as caught:
            error = str(caught).removeprefix(str(path))
        return batches, [made for made in loader.substitutions if made.epoch == 0], error


def assert_same_epoch(ours: list[Batch], theirs: list[Batch], tolerance: float) -> None:
    """The same ids and labels, and views that differ by `tolerance` at most in the mean."""
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.ids, their.ids)
        assert torch.equal(our.labels, their.labels)
        for a, b in zip(our.views, their.views, strict=True):
            assert float((a - b).abs().mean()) <= tolerance
