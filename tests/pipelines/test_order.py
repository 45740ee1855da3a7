"""The order of the samples: a bijection, uniform, and the same however it is asked for."""

import itertools
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats
from viewmill.pipelines.order import ORDER_VERSION, SampleOrder

# Every test here is deterministic (fixed seeds): a p-value is not luck, it is a fact of this order.
LEAST_P_VALUE = 1e-3


def whole(order: SampleOrder, epoch: int = 0) -> np.ndarray:
    return order.ids(epoch, 0, order.num_samples)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 16, 100])
@pytest.mark.parametrize("window", [0, 1, 2, 5, 16, 100])
def test_every_epoch_is_a_bijection(block: int, window: int) -> None:
    for num_samples in [*range(1, 34), 63, 64, 65, 99, 100, 101]:
        ids = whole(SampleOrder(num_samples, seed=num_samples, block=block, window=window), epoch=2)
        assert sorted(ids.tolist()) == list(range(num_samples)), f"N = {num_samples}"


def test_a_large_epoch_is_a_bijection() -> None:
    ids = whole(SampleOrder(100_003, seed=5, block=64, window=1000))
    assert len(np.unique(ids)) == 100_003


@pytest.mark.parametrize(("block", "window"), [(1, 0), (8, 0), (1, 16), (8, 50), (500, 7)])
def test_pieces_equal_the_whole(block: int, window: int) -> None:
    order = SampleOrder(203, seed=1, block=block, window=window)
    expected = whole(order, epoch=4)
    for start, stop in itertools.combinations(range(0, 204, 7), 2):
        np.testing.assert_array_equal(order.ids(4, start, stop), expected[start:stop])


def test_an_empty_range_gives_no_ids() -> None:
    ids = SampleOrder(10, seed=0, block=2, window=4).ids(0, 10, 10)
    assert ids.shape == (0,)
    assert ids.dtype == np.int64


def test_blocks_stay_together_without_a_window() -> None:
    ids = whole(SampleOrder(1000, seed=3, block=50))
    rows = ids.reshape(20, 50)
    assert (np.diff(rows, axis=1) == 1).all()
    assert (rows[:, 0] % 50 == 0).all()
    assert (rows[:, 0] != np.arange(0, 1000, 50)).any()


def test_a_window_mixes_only_the_blocks_inside_it() -> None:
    blocks_only = whole(SampleOrder(1000, seed=3, block=50)).reshape(5, 200)
    mixed = whole(SampleOrder(1000, seed=3, block=50, window=200)).reshape(5, 200)
    np.testing.assert_array_equal(np.sort(mixed, axis=1), np.sort(blocks_only, axis=1))
    assert (mixed != blocks_only).mean() > 0.9


def test_two_windows_are_mixed_differently() -> None:
    straight = SampleOrder(4096, seed=0, block=4096)
    mixed = whole(SampleOrder(4096, seed=0, block=4096, window=64)).reshape(64, 64)
    inside = mixed - whole(straight).reshape(64, 64)[:, :1]
    assert len({tuple(row) for row in inside.tolist()}) == 64


def test_the_last_partial_block_stays_last_and_is_permuted_inside() -> None:
    tails = [whole(SampleOrder(130, seed=seed, block=100))[100:] for seed in range(5)]
    assert all(sorted(tail.tolist()) == list(range(100, 130)) for tail in tails)
    assert all((tail != np.arange(100, 130)).any() for tail in tails)


@pytest.mark.parametrize("num_samples", [2, 3, 4])
def test_every_permutation_of_a_few_samples_is_equally_likely(num_samples: int) -> None:
    order = SampleOrder(num_samples, seed=9)
    permutations = list(itertools.permutations(range(num_samples)))
    counts = dict.fromkeys(permutations, 0)
    for epoch in range(60 * len(permutations)):
        counts[tuple(whole(order, epoch).tolist())] += 1
    assert stats.chisquare(list(counts.values())).pvalue > LEAST_P_VALUE


@pytest.mark.parametrize(
    ("num_samples", "block", "window"), [(12, 1, 0), (100, 1, 0), (64, 4, 32), (37, 1, 37)]
)
def test_an_id_lands_everywhere_equally_often_over_epochs(num_samples: int, block: int, window: int) -> None:
    order = SampleOrder(num_samples, seed=2, block=block, window=window)
    landings = np.stack([np.argsort(whole(order, epoch)) for epoch in range(1000)])
    for sample in (0, num_samples // 2, num_samples - 1):
        counts = np.bincount(landings[:, sample], minlength=num_samples)
        assert stats.chisquare(counts).pvalue > LEAST_P_VALUE


def test_an_id_lands_everywhere_equally_often_over_seeds() -> None:
    firsts = [SampleOrder(50, seed).ids(0, 0, 1)[0] for seed in range(1500)]
    assert stats.chisquare(np.bincount(firsts, minlength=50)).pvalue > LEAST_P_VALUE


def test_the_step_from_one_position_to_the_next_is_uniform() -> None:
    ids = whole(SampleOrder(200_000, seed=4))
    steps = np.diff(ids) % 200_000
    assert stats.kstest(steps / 200_000, "uniform").pvalue > LEAST_P_VALUE


def test_neighbouring_positions_are_independent() -> None:
    ids = whole(SampleOrder(200_000, seed=4)) * 20 // 200_000
    table = np.zeros((20, 20))
    np.add.at(table, (ids[:-1], ids[1:]), 1)
    assert stats.chi2_contingency(table).pvalue > LEAST_P_VALUE


@pytest.mark.parametrize("other", [(0, 2), (1, 1), (1, 0), (2**32, 1)])
def test_other_seeds_and_epochs_give_unrelated_orders(other: tuple[int, int]) -> None:
    seed, epoch = other
    first = whole(SampleOrder(5000, seed=0), epoch=1)
    second = whole(SampleOrder(5000, seed=seed), epoch=epoch)
    # Unrelated permutations agree in one place on average; 10 or more has a chance of 1e-7.
    assert (first == second).sum() < 10
    assert abs(stats.spearmanr(first, second).statistic) < 0.06


def far_away() -> np.ndarray:
    """A batch near the end of a billion samples."""
    return SampleOrder(10**9, seed=0, block=256, window=65536).ids(3, 987_654_321, 987_654_321 + 256)


def test_a_billion_samples_cost_neither_time_nor_memory() -> None:
    tracemalloc.start()
    ids = far_away()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(np.unique(ids)) == 256
    assert ids.max() < 10**9
    assert peak_bytes < 1_000_000
    # Lines, not seconds, which depend on what else runs; no line fills more than the megabyte.
    assert lines_run(far_away) < 10_000


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python it takes, ours and NumPy's."""
    lines, tracer = 0, sys.gettrace()

    def look(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return look

    sys.settrace(look)
    try:
        work()
    finally:
        sys.settrace(tracer)
    return lines


def test_the_order_of_this_version_never_changes() -> None:
    # A change here breaks every saved data position: raise ORDER_VERSION with it.
    assert ORDER_VERSION == 1
    assert SampleOrder(1_281_167, seed=0).ids(0, 0, 4).tolist() == [440316, 1218531, 900441, 353233]
    order = SampleOrder(10**9, seed=2**40, block=256, window=4096)
    assert order.ids(7, 10**9 - 4, 10**9).tolist() == [602693465, 633303886, 123671063, 518560141]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (5, 4), (0, 11)])
def test_positions_outside_the_epoch_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=rf"\[{start}, {stop}\) are not inside an epoch of 10"):
        SampleOrder(10, seed=0).ids(0, start, stop)


@pytest.mark.parametrize(
    ("num_samples", "block", "window", "named"),
    [(0, 1, 0, "num_samples"), (9, 0, 0, "block"), (9, 1, -1, "window")],
)
def test_impossible_orders_are_refused(num_samples: int, block: int, window: int, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SampleOrder(num_samples, seed=0, block=block, window=window)
