"""The Loader reads a data set of betons as it reads one of tars: the same ids, crops and pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.views import preset
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.manifest import Dataset

from tests.pipelines.photographs import encode, on_255, plan_for, write_dataset

SPEC = preset("hydes@32")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Tars and betons of one source: upright JPEGs, a turned one, and PNGs."""
    folder = tmp_path_factory.mktemp("kinds")
    tars = write_dataset(folder / "small", 12)
    tile = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    photographs = folder / "small" / "photographs"
    (photographs / "class0" / "turned.jpg").write_bytes(encode(tile, "JPEG", orientation=6))
    (photographs / "class1" / "lossless.png").write_bytes(encode(tile, "PNG"))
    tars = folder / "tars"
    convert_with(photographs, tars, Options())
    convert_with(photographs, folder / "betons", Options(format="ffcv"))
    return tars, folder / "betons"


def epoch_of(folder: Path, executor: str) -> list[Batch]:
    with (
        Dataset.open(folder) as dataset,
        Loader(dataset, SPEC, 7, executor=executor, num_threads=1, seed=4) as loader,
    ):
        return list(loader)


def test_views_of_both_kinds_are_equal(folders: tuple[Path, Path]) -> None:
    tars, betons = (epoch_of(folder, "reference") for folder in folders)
    assert len(tars) == len(betons) == 2
    for ours, theirs in zip(betons, tars, strict=True):
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        assert torch.equal(ours.labels, theirs.labels)
        assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))


def test_dali_decodes_what_a_beton_gives(folders: tuple[Path, Path]) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    from viewmill.pipelines.executors.dali.executor import DaliExecutor

    with Dataset.open(folders[1]) as dataset:
        images = dataset.read(range(dataset.num_samples))
    assert {image[:2] for image in images} == {b"P6", b"\xff\xd8"}
    plan = plan_for(SPEC, images)
    reference = ReferenceExecutor(SPEC, max_batch=len(images)).run(images, plan)
    executor = DaliExecutor(SPEC, max_batch=len(images), num_threads=1)
    for ours, theirs in zip(executor.run(images, plan), reference, strict=True):
        difference = (on_255(ours, SPEC) - on_255(theirs, SPEC)).abs().mean()
        assert difference < 2  # the published tolerance
    executor.close()
