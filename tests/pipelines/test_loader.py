"""The Loader: its order, its resumption, its thread."""

import gc
import json
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.flow import flow
from viewmill.pipelines.flow.batches import BatchMaker, Fetched
from viewmill.pipelines.flow.flow import READ_AHEAD, READ_THREADS
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset

from tests.pipelines.photographs import write_dataset

NUM_SAMPLES = 26
SPEC = preset("hydes@32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("loader"), NUM_SAMPLES)


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Iterator[Dataset]:
    with Dataset.open(folder) as opened:
        yield opened


def loader_of(dataset: Dataset, batch_size: int = 8, **options: Any) -> Loader:
    return Loader(dataset, SPEC, batch_size, **{"executor": "reference", "num_threads": 1, **options})


def take(loader: Loader, count: int) -> list[Batch]:
    """The next `count` batches, over the ends of epochs."""
    batches: list[Batch] = []
    while len(batches) < count:
        batches.extend(islice(iter(loader), count - len(batches)))
    return batches


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert [(b.epoch, b.step, b.micro) for b in ours] == [(b.epoch, b.step, b.micro) for b in theirs]
    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(our.ids, their.ids)
        assert torch.equal(our.labels, their.labels)
        assert all(torch.equal(a, b) for a, b in zip(our.views, their.views, strict=True))


def stage_threads() -> list[str]:
    """Names of the threads that read and make."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name in ("viewmill-read", "viewmill-make"))


def test_a_batch_is_the_plan_carried_out_on_the_samples_of_the_order(dataset: Dataset) -> None:
    with loader_of(dataset, seed=5) as loader:
        batch = take(loader, 4)[3]
    ids = SampleOrder(NUM_SAMPLES, 5).ids(1, 0, 8)
    assert (batch.epoch, batch.step, batch.micro) == (1, 3, 0)
    np.testing.assert_array_equal(batch.ids, ids)
    np.testing.assert_array_equal(batch.labels, dataset.labels(ids))
    plan = ViewPlanner(SPEC, 5).draw(1, ids, dataset.sizes(ids))
    expected = ReferenceExecutor(SPEC, max_batch=8).run(dataset.read(ids), plan)
    assert [view.shape for view in batch.views] == [(8, 3, 32, 32)] * 2 + [(8, 3, 16, 16)] * 6
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch.views, expected, strict=True))


def test_an_epoch_is_every_full_batch_and_the_next_iter_is_the_next_epoch(dataset: Dataset) -> None:
    with loader_of(dataset, accumulation=2) as loader:
        assert (len(loader), loader.steps_per_epoch) == (6, 3)  # 26 = 3 x 8 and a rest
        epochs = [list(loader), list(loader)]
    for epoch, batches in enumerate(epochs):
        assert [(b.epoch, b.step, b.micro) for b in batches] == [
            (epoch, 3 * epoch + step, micro) for step in range(3) for micro in range(2)
        ]
        ids = np.concatenate([batch.ids for batch in batches])
        np.testing.assert_array_equal(ids, SampleOrder(NUM_SAMPLES, 0).ids(epoch, 0, 24))


def test_an_iteration_that_was_left_goes_on_where_it_was_left(dataset: Dataset) -> None:
    with loader_of(dataset) as loader, loader_of(dataset) as other:
        pieces = [next(iter(loader)), *iter(loader), next(iter(loader))]
        assert_same(pieces, take(other, 4))


@pytest.mark.parametrize("executor", ["reference", "host", "dali"])
def test_resuming_anywhere_gives_the_uninterrupted_run_bit_for_bit(dataset: Dataset, executor: str) -> None:
    if executor == "dali":
        pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    options = {"executor": executor, "accumulation": 2, "seed": 3}
    with loader_of(dataset, **options) as loader:
        whole = take(loader, 14)
    states = {}
    with loader_of(dataset, **options) as first:
        taken = 0
        for stop in (0, 1, 4, 6, 11):  # at the start, inside a step, between steps, between epochs, later
            take(first, stop - taken)
            taken, states[stop] = stop, json.dumps(first.state_dict())
    for stop, state in states.items():
        with loader_of(dataset, **options) as second:
            second.load_state_dict(json.loads(state))
            assert_same(take(second, 14 - stop), whole[stop:])


@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (2, 2), (4, 1), (1, 4)])
def test_resuming_on_another_world_size_goes_on_with_the_same_samples_and_views(
    dataset: Dataset, world_size: int, accumulation: int
) -> None:
    with loader_of(dataset) as alone:
        take(alone, 2)
        state = alone.state_dict()
        expected = take(alone, 3)
    ranks = [
        loader_of(dataset, rank=rank, world_size=world_size, accumulation=accumulation)
        for rank in range(world_size)
    ]
    for loader in ranks:
        loader.load_state_dict(state)
    per_rank = [take(loader, 3 * accumulation) for loader in ranks]
    batches = [batch for turn in zip(*per_rank, strict=True) for batch in turn]
    np.testing.assert_array_equal(
        np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.ids for batch in expected])
    )
    for view in range(SPEC.num_views):
        together = torch.cat([batch.views[view] for batch in batches])
        assert torch.equal(together, torch.cat([batch.views[view] for batch in expected]))
    assert len({json.dumps(loader.state_dict()) for loader in ranks}) == 1
    for loader in ranks:
        loader.close()


def test_a_running_loader_can_be_set_back(dataset: Dataset) -> None:
    with loader_of(dataset) as loader:
        state = loader.state_dict()
        before = take(loader, 4)
        loader.load_state_dict(state)
        assert_same(take(loader, 4), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_set_hash", "feed"),
        ("order_version", 0),
        ("plan_version", 99),
        ("seed", 8),
    ],
)
def test_a_state_of_another_run_is_refused_with_both_values(
    dataset: Dataset, name: str, value: object
) -> None:
    with loader_of(dataset, seed=7) as loader:
        state = loader.state_dict()
        with pytest.raises(ValueError, match=name) as caught:
            loader.load_state_dict({**state, name: value})
    assert repr(value) in str(caught.value)
    assert repr(state[name]) in str(caught.value)


def test_a_state_of_another_order_names_what_differs(dataset: Dataset) -> None:
    with loader_of(dataset, block=4) as loader, loader_of(dataset, block=2) as other:
        with pytest.raises(ValueError, match=r"has order.block 4, this run has 2"):
            other.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        with pytest.raises(ValueError, match=r"has order 'none', this run has {'kind': 'samples'"):
            other.load_state_dict({**loader.state_dict(), "order": "none"})


def test_a_state_that_lacks_a_field_or_stands_inside_a_batch_is_refused(dataset: Dataset) -> None:
    with loader_of(dataset) as loader:
        state = loader.state_dict()
        with pytest.raises(ValueError, match="lacks seed"):
            loader.load_state_dict({name: value for name, value in state.items() if name != "seed"})
        for position in (4, 24):
            with pytest.raises(ValueError, match=f"sample {position} of its epoch"):
                loader.load_state_dict({**state, "position": position})
        for wrong in (-1, 1.5, "0", True):
            with pytest.raises(ValueError, match="whole number"):
                loader.load_state_dict({**state, "epoch": wrong})


def test_a_batch_that_does_not_divide_names_the_numbers(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"global batch 8 is not a multiple of 1 micro-batches x 3 ranks"):
        loader_of(dataset, world_size=3)
    with pytest.raises(ValueError, match=r"batch 27 is larger than the data set of 26 samples"):
        loader_of(dataset, 27)


def test_wrong_settings_are_refused_at_once(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="rank must lie in"):
        loader_of(dataset, rank=1)
    with pytest.raises(ValueError, match="prefetch must be >= 1"):
        loader_of(dataset, prefetch=0)
    with pytest.raises(ValueError, match="did you mean 'hydes'"):
        Loader(dataset, "hydess", 8)
    with pytest.raises(ValueError, match="unknown executor 'dalli'"):
        loader_of(dataset, executor="dalli")


class CountingDataset(Dataset):
    """Counts its reads, and fails at those of one sample where told to."""

    def count_from(self, fail_at: int | None = None) -> None:
        self.reads, self.fail_at = 0, fail_at

    def read(self, ids: Any) -> list[bytes]:
        self.reads += 1
        if self.fail_at in ids:
            raise OSError(5, "the disk is gone")
        return super().read(ids)


def test_reading_ahead_is_bounded_and_crosses_the_end_of_an_epoch(folder: Path) -> None:
    with CountingDataset.open(folder) as dataset:
        dataset.count_from()
        with loader_of(dataset, prefetch=2) as loader:
            take(loader, 2)
            # 2 handed out, 2 ready, 1 made beside them, and what is read ahead: epoch 2 has begun.
            expected = 5 + READ_AHEAD
            deadline = time.monotonic() + 20
            while dataset.reads < expected and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.3)
            assert dataset.reads == expected


def test_what_fails_in_a_thread_is_raised_to_the_consumer_and_stays_raised(folder: Path) -> None:
    with CountingDataset.open(folder) as dataset:
        dataset.count_from(fail_at=int(SampleOrder(NUM_SAMPLES, 0).ids(0, 16, 17)[0]))
        with loader_of(dataset) as loader:
            assert len(take(loader, 2)) == 2  # what was made before the failure is still handed out
            state = loader.state_dict()
            for _ in range(2):
                with pytest.raises(OSError, match="the disk is gone") as caught:
                    take(loader, 1)
                assert any(entry.name == "read" for entry in caught.traceback)  # where it happened
            dataset.fail_at = None  # the disk is back
            loader.load_state_dict(state)
            assert take(loader, 1)[0].step == 2
        assert stage_threads() == []


def test_close_ends_the_threads_at_once_and_batches_stay_valid(dataset: Dataset) -> None:
    with loader_of(dataset) as loader:
        batch = take(loader, 1)[0]
        kept = [view.clone() for view in batch.views]
        assert stage_threads() == ["viewmill-make"] + ["viewmill-read"] * READ_THREADS
    assert stage_threads() == []
    assert all(torch.equal(view, copy) for view, copy in zip(batch.views, kept, strict=True))
    with pytest.raises(RuntimeError, match="closed"):
        take(loader, 1)
    loader.close()  # twice is once


def test_a_loader_that_is_garbage_leaves_no_thread(dataset: Dataset) -> None:
    loader = loader_of(dataset)
    take(loader, 1)
    del loader
    gc.collect()
    assert stage_threads() == []


def test_waiting_is_counted_and_only_waiting(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = BatchMaker.finish

    def finish_slowly(self: BatchMaker, fetched: Any) -> Batch:
        time.sleep(0.2)
        return finish(self, fetched)

    monkeypatch.setattr(BatchMaker, "finish", finish_slowly)
    with loader_of(dataset) as loader:
        assert loader.wait_s == 0
        take(loader, 1)
        first = loader.wait_s
        assert first >= 0.2
        deadline = time.monotonic() + 20
        while not loader.stats().stages[-1].ready and time.monotonic() < deadline:
            time.sleep(0.01)  # a step of the loop, in which the next ones are made
        take(loader, 1)
        assert loader.wait_s - first < 0.2
        loader.load_state_dict(loader.state_dict())
        assert loader.wait_s >= first  # a new thread does not forget


def test_stats_tell_what_each_stage_has_done(dataset: Dataset) -> None:
    with loader_of(dataset, prefetch=1) as loader:
        batches = take(loader, 3)
        until_ready(loader, 2)
        stats = loader.stats()
        assert stats.batches == 3
        assert [stage.name for stage in stats.stages] == ["read", "make"]
        read, make = stats.stages
        assert (make.batches, make.images, make.ready, make.taken) == (5, 40, 2, 3)
        view_bytes = sum(view.numel() * 4 for view in batches[0].views)
        assert (make.bytes, make.ready_bytes) == (5 * view_bytes, 2 * view_bytes)
        first = SampleOrder(NUM_SAMPLES, 0).ids(0, 0, 24)
        assert read.bytes > dataset.stored_bytes(first) == sum(map(len, dataset.read(first)))
        assert 0 < stats.wait_s <= stats.passed_s
        assert json.loads(json.dumps(stats.as_dict()))["stages"][1]["mean_ready"] == make.mean_ready
        assert "\n" not in str(stats)


def test_stats_begin_anew_but_wait_s_goes_on(dataset: Dataset) -> None:
    with loader_of(dataset, prefetch=1) as loader:
        take(loader, 3)
        until_ready(loader, 2)
        waited_s = loader.wait_s
        loader.reset_stats()
        stats = loader.stats()
        assert loader.wait_s == waited_s
        assert (stats.batches, stats.wait_s) == (0, 0)
        assert [(stage.images, stage.busy_s, stage.taken) for stage in stats.stages] == [(0, 0, 0)] * 2
        assert stats.stages[1].ready == 2  # what stands there stands there
        loader.load_state_dict(loader.state_dict())
        assert loader.stats().stages[1].ready == 0
        take(loader, 1)
        assert loader.stats().batches == 1


def until_ready(loader: Loader, count: int) -> None:
    deadline = time.monotonic() + 20
    while loader.stats().stages[-1].ready != count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_few_bytes_ahead_still_give_every_batch(dataset: Dataset) -> None:
    with loader_of(dataset, max_ahead_bytes=1) as tight, loader_of(dataset) as loose:
        assert_same(take(tight, 5), take(loose, 5))
        assert tight.stats().stages[-1].ready <= 1
    with pytest.raises(ValueError, match="max_ahead_bytes must be >= 1"):
        loader_of(dataset, max_ahead_bytes=0)


def test_an_executor_that_is_stuck_is_not_entered_a_second_time(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, is_stuck = threading.Event(), threading.Event()
    finish = BatchMaker.finish

    def stuck_from_the_second_on(self: BatchMaker, fetched: Fetched) -> Batch:
        if fetched.planned.step:
            is_stuck.set()
            goes_on.wait(20)
        return finish(self, fetched)

    monkeypatch.setattr(BatchMaker, "finish", stuck_from_the_second_on)
    monkeypatch.setattr(flow, "_PATIENCE_TO_MAKE_S", 0.1)
    loader = loader_of(dataset)
    take(loader, 1)
    assert is_stuck.wait(20)
    with pytest.raises(RuntimeError, match="'reference' does not come to the end of its batch"):
        loader.load_state_dict(loader.state_dict())
    with pytest.raises(RuntimeError, match="closed"):
        take(loader, 1)
    goes_on.set()
    loader.close()
