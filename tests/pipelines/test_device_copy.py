"""Views of CPU executors on another device, with a copier in the place of a GPU's."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.pipelines import loader as loader_module
from viewmill.pipelines import passes
from viewmill.pipelines.flow.device_copy import CudaCopy
from viewmill.pipelines.loader import Loader
from viewmill.shards.manifest import Dataset

from tests.pipelines.photographs import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("copied"), 16)


class FakeCopy:
    """Copies to "the device" and notes which of the host's views are still alive."""

    made: list["FakeCopy"]

    def __init__(self, device: str, view_format: object) -> None:
        self.device, self.taken = device, []
        type(self).made.append(self)

    def __call__(self, views: list[torch.Tensor]) -> list[torch.Tensor]:
        self.taken.append([weakref.ref(view) for view in views])
        return [view.clone() for view in views]


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[FakeCopy]:
    FakeCopy.made = []
    monkeypatch.setattr(loader_module, "CudaCopy", FakeCopy)
    monkeypatch.setattr(passes, "CudaCopy", FakeCopy)
    return FakeCopy.made


def loader_of(dataset: Dataset, **options: Any) -> Loader:
    return Loader(dataset, "hydes@32", 4, executor="reference", num_threads=1, **options)


def test_views_of_an_executor_on_the_cpu_are_copied_to_the_device(
    folder: Path, copies: list[FakeCopy]
) -> None:
    with (
        Dataset.open(folder) as dataset,
        loader_of(dataset) as here,
        loader_of(dataset, device="cuda") as there,
    ):
        for ours, theirs in zip(there, here, strict=True):
            assert ours.ids.tolist() == theirs.ids.tolist()
            assert all(torch.equal(a, b) for a, b in zip(ours.views, theirs.views, strict=True))
        stages = there.stats().stages
    (copy,) = copies
    assert copy.device == "cuda"
    assert [stage.name for stage in stages] == ["read", "make", "copy"]
    assert stages[2].images >= 16
    assert stages[2].bytes == stages[2].images * 4 * 3 * (2 * 32 * 32 + 6 * 16 * 16)


def test_the_hosts_memory_is_given_back_when_the_copy_is_done(folder: Path, copies: list[FakeCopy]) -> None:
    with Dataset.open(folder) as dataset, loader_of(dataset, device="cuda:0") as loader:
        batches = list(loader)
    gc.collect()
    (copy,) = copies
    assert len(batches) == 4
    assert all(view() is None for views in copy.taken for view in views)  # while the batches are still held


def test_a_pass_copies_too(folder: Path, copies: list[FakeCopy]) -> None:
    with Dataset.open(folder) as dataset:
        ids = [
            sample
            for batch in passes.read_once(dataset, "eval@16", 5, executor="reference", device="cuda")
            for sample in batch.ids.tolist()
        ]
    assert ids == list(range(16))
    assert [len(copy.taken) for copy in copies] == [4]


def test_a_device_that_is_not_there_is_refused_at_once(folder: Path) -> None:
    with Dataset.open(folder) as dataset:
        with pytest.raises(ValueError, match="unknown device 'tpu'"):
            loader_of(dataset, device="tpu")
        if not torch.cuda.is_available():
            with pytest.raises(RuntimeError, match="device 'cuda': torch sees 0 GPUs"):
                loader_of(dataset, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_copy_to_a_gpu_has_the_same_bits() -> None:
    from viewmill.pipelines.executors.view_format import FLOAT32

    copy = CudaCopy("cuda", FLOAT32)
    for _ in range(3):
        views = [torch.randn(4, 3, size, size) for size in (32, 16)]
        there = copy(views)
        assert all(view.is_cuda for view in there)
        assert all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(there, views, strict=True))
