"""Which rank reads what: the global batch never depends on the number of ranks."""

import itertools

import numpy as np
import pytest
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.positions import positions_of_micro_batch, steps_per_epoch

SPLITS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 4), (4, 3), (12, 1), (1, 24)]


@pytest.mark.parametrize(("accumulation", "world_size"), SPLITS)
@pytest.mark.parametrize("step", [0, 1, 17])
def test_any_split_reads_the_global_batch_in_order(accumulation: int, world_size: int, step: int) -> None:
    positions = [
        position
        for micro, rank in itertools.product(range(accumulation), range(world_size))
        for position in positions_of_micro_batch(
            step, micro, rank, global_batch=24, accumulation=accumulation, world_size=world_size
        )
    ]
    assert positions == list(range(24 * step, 24 * (step + 1)))


@pytest.mark.parametrize(("accumulation", "world_size"), SPLITS)
def test_the_ids_of_a_step_do_not_depend_on_the_split(accumulation: int, world_size: int) -> None:
    order = SampleOrder(1000, seed=1, block=10, window=100)
    pieces = [
        positions_of_micro_batch(
            5, micro, rank, global_batch=24, accumulation=accumulation, world_size=world_size
        )
        for micro, rank in itertools.product(range(accumulation), range(world_size))
    ]
    ids = np.concatenate([order.ids(0, piece.start, piece.stop) for piece in pieces])
    np.testing.assert_array_equal(ids, order.ids(0, 120, 144))


def test_a_micro_batch_starts_where_the_formula_says() -> None:
    piece = positions_of_micro_batch(3, 1, 2, global_batch=48, accumulation=2, world_size=4)
    assert piece == range(3 * 48 + 48 // 2 + 2 * 48 // 8, 3 * 48 + 48 // 2 + 3 * 48 // 8)


def test_the_last_short_batch_is_dropped() -> None:
    assert [steps_per_epoch(n, 10) for n in (10, 19, 20)] == [1, 1, 2]


def test_a_batch_that_does_not_divide_is_an_error_that_names_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"20 is not a multiple of 2 micro-batches x 3 ranks = 6"):
        positions_of_micro_batch(0, 0, 0, global_batch=20, accumulation=2, world_size=3)


def test_a_batch_larger_than_the_data_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="global batch 11 is larger than the data set of 10"):
        steps_per_epoch(10, 11)


@pytest.mark.parametrize(
    ("step", "micro", "rank", "named"),
    [(-1, 0, 0, "step"), (0, 2, 0, "micro-batch"), (0, 0, 3, "rank"), (0, 0, -1, "rank")],
)
def test_numbers_outside_the_job_are_refused(step: int, micro: int, rank: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        positions_of_micro_batch(step, micro, rank, global_batch=12, accumulation=2, world_size=3)


@pytest.mark.parametrize("batch", [0, -4])
def test_a_batch_of_nothing_is_refused(batch: int) -> None:
    with pytest.raises(ValueError, match="global batch"):
        steps_per_epoch(10, batch)
