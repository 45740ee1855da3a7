"""Batches that are made over and over beside something else."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from viewmill.pipelines.executors.executor import BatchDecodeError, make_executor
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor.beside import Making, Slowdown, TimedMaker, steps_for
from viewmill.tools.doctor.pictures import PicturedSamples, Pictures
from viewmill.tools.doctor.series import median_slowdown

from tests.engine.tiny import tiny_data_set

SPEC = preset("eval@16")
WAIT_S = 30.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(tiny_data_set(tmp_path_factory.mktemp("made"), count=8))


def maker_of(dataset: Dataset | PicturedSamples) -> TimedMaker:
    return TimedMaker(
        dataset, ViewPlanner(SPEC, 0), make_executor("reference", SPEC, max_batch=4, num_threads=1)
    )


def making_of(maker: TimedMaker, *ids: list[int]) -> Making:
    return Making(maker, [np.array(one) for one in ids], prefetch=1, max_ahead_bytes=1 << 30)


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_same_batches_are_made_again_and_again_until_it_is_left(dataset: Dataset) -> None:
    maker = maker_of(dataset)
    with making_of(maker, [0, 1], [2, 3], [4, 5]) as making:
        until(lambda: len(maker.made) > 7)
        ended_s = time.perf_counter()
        assert making.batch_s(0.0, ended_s) is not None
    assert [number for number, _, _ in maker.made[:7]] == [0, 1, 2, 0, 1, 2, 0]
    made = len(maker.made)
    time.sleep(0.1)
    assert len(maker.made) == made


def test_batches_count_alike_and_those_that_are_cut_off_do_not(dataset: Dataset) -> None:
    maker = maker_of(dataset)
    making = making_of(maker, [0], [1])
    maker.made += [(0, 0.5, 2.0), (1, 2.0, 3.0), (0, 3.0, 6.0), (1, 6.0, 7.0), (0, 7.0, 12.0)]
    assert making.batch_s(1.0, 10.0) == pytest.approx((3.0 + (1.0 + 1.0) / 2) / 2)
    assert making.batch_s(1.0, 2.5) is None


def test_what_cannot_be_made_is_told(dataset: Dataset) -> None:
    broken = Pictures(np.array([0, 1]), [b"no image", b"no image"], dataset.sizes([0, 1]))
    making = making_of(maker_of(PicturedSamples(dataset, broken)), [0, 1])
    with making, pytest.raises(BatchDecodeError, match="no image"):
        until(lambda: making.batch_s(0.0, 1.0))


def test_smaller_pictures_stand_for_their_samples(dataset: Dataset) -> None:
    pictures = Pictures(np.array([5, 2]), [b"five", b"two"], np.array([[5, 6], [2, 3]]))
    samples = PicturedSamples(dataset, pictures)
    assert samples.read([2, 5]) == [b"two", b"five"]
    assert samples.sizes(np.array([2, 5])).tolist() == [[2, 3], [5, 6]]
    assert samples.stored_bytes([5]) == 4
    assert samples.keys([2]) == dataset.keys([2])
    with pytest.raises(KeyError):
        samples.read([3])


@pytest.mark.parametrize(
    ("batch_s", "step_s", "expected"),
    [(0.01, 0.1, 6), (0.1, 0.1, 6), (0.5, 0.1, 21), (100.0, 0.1, 96)],
)
def test_a_training_lasts_until_each_batch_was_made(batch_s: float, step_s: float, expected: int) -> None:
    assert steps_for(3, batch_s, step_s, least=6) == expected


def test_scatter_in_single_rounds_makes_no_slowdown() -> None:
    rounds = [Slowdown(1.2, 0.9), Slowdown(0.8, 0.7), Slowdown(0.9, 2.0)]
    assert median_slowdown(rounds) == Slowdown(1.0, 1.0)
    assert median_slowdown([*rounds, Slowdown(1.4, 1.6), Slowdown(1.3, 1.2)]) == Slowdown(1.2, 1.2)
