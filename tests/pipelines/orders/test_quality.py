"""Shuffle quality: a perfect shuffle is told from a poor one; expected values are those of shuffles."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders import perfect
from viewmill.pipelines.orders.perfect import Expected
from viewmill.pipelines.orders.quality import measure_shuffle
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.orders.weighted import WeightedOrder

NUM_SAMPLES, BATCH = 600, 32
SORTED = np.repeat(np.arange(12), NUM_SAMPLES // 12)
COUNTS = np.bincount(SORTED)


def shuffles(count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(5)
    return [generator.permutation(NUM_SAMPLES) for _ in range(count)]


def batches_of(ids: np.ndarray) -> np.ndarray:
    return ids[: len(ids) // BATCH * BATCH].reshape(-1, BATCH)


def entropy_by_hand(ids: np.ndarray) -> float:
    total = 0.0
    for batch in batches_of(ids):
        shares = np.bincount(SORTED[batch]) / BATCH
        total -= sum(share * np.log(share) for share in shares if share)
    return total / (NUM_SAMPLES // BATCH)


def classes_by_hand(ids: np.ndarray) -> float:
    return float(np.mean([len(set(SORTED[batch].tolist())) for batch in batches_of(ids)]))


def neighbours_by_hand(ids: np.ndarray) -> float:
    batches = batches_of(ids)
    return sum(int(i) + 1 in set(batch.tolist()) for batch in batches for i in batch) / batches.size


def step_by_hand(ids: np.ndarray) -> float:
    return float(np.mean([abs(a - b) for a, b in zip(ids[1:], ids, strict=False)]) / NUM_SAMPLES)


BATCHES = NUM_SAMPLES // BATCH


@pytest.mark.parametrize(
    ("by_hand", "expected"),
    [
        (entropy_by_hand, perfect.class_entropy(COUNTS, BATCH, BATCHES)),
        (classes_by_hand, perfect.distinct_classes(COUNTS, BATCH, BATCHES)),
        (neighbours_by_hand, perfect.adjacent_share(NUM_SAMPLES, BATCH, BATCHES)),
        (step_by_hand, perfect.step_length(NUM_SAMPLES, NUM_SAMPLES - 1)),
    ],
)
def test_expected_values_and_errors_are_those_of_shuffles(
    by_hand: Callable[[np.ndarray], float], expected: Expected
) -> None:
    drawn = np.array([by_hand(ids) for ids in shuffles(120)])
    # 120 shuffles: the mean is known to 0.09 deviations (4 of them: 0.37), a deviation to 6.5 % (4: 26 %).
    assert abs(drawn.mean() - expected.mean) < 0.37 * expected.deviation
    assert drawn.std() == pytest.approx(expected.deviation, rel=0.35)


def test_the_figures_of_return_are_those_of_shuffles() -> None:
    orders = [np.argsort(ids) for ids in shuffles(161)]
    pairs = list(itertools.pairwise(orders))
    soon = np.array([perfect.soon_share(*pair) for pair in pairs])
    gaps = np.array([perfect.triangular_distance(*pair) for pair in pairs])
    for drawn, expected in (
        (soon, perfect.returns_soon(NUM_SAMPLES, 1)),
        (gaps, perfect.gap_distance(NUM_SAMPLES, 1)),
    ):
        # The expected deviation comes from 30 shuffles, and is known to 13 % (4 of them: 52 %).
        assert drawn.std() == pytest.approx(expected.deviation, rel=0.6)
        assert abs(drawn.mean() - expected.mean) < expected.deviation


def test_the_law_of_return_is_the_triangle() -> None:
    # (after - before) / N of all pairs of positions: exactly the law, but for the width of a step.
    before, after = (places.ravel() for places in np.mgrid[:200, :200])
    found = np.sort(after - before) / 200
    law = np.where(found < 0, (1 + found) ** 2 / 2, 1 - (1 - found) ** 2 / 2)
    assert np.abs(law - np.searchsorted(found, found, side="right") / len(found)).max() < 0.006


@pytest.mark.parametrize("num_samples", [NUM_SAMPLES, 20_011])
def test_a_full_shuffle_is_told_from_no_perfect_one(num_samples: int) -> None:
    labels = np.sort(np.arange(num_samples) % 37)
    for seed in range(3):
        quality = measure_shuffle(SampleOrder(num_samples, seed), labels, BATCH)
        assert quality.grade == "perfect", {name: f.errors_off for name, f in quality.figures().items()}


def test_blocks_of_a_sorted_source_are_poor_and_of_a_shuffled_one_are_not() -> None:
    order = SampleOrder(40_000, seed=0, block=16)
    labels = np.sort(np.arange(40_000) % 100)
    sorted_source = measure_shuffle(order, labels, 64)
    assert sorted_source.grade == "poor"
    assert sorted_source.distinct_classes is not None
    assert sorted_source.distinct_classes.measured <= 8
    assert sorted_source.adjacent_share.measured > 0.9
    shuffled = measure_shuffle(order, np.random.default_rng(0).permutation(labels), 64)
    assert shuffled.grade == "good"
    assert shuffled.entropy_share == pytest.approx(1, abs=0.005)


def test_a_window_mixes_what_the_blocks_of_a_sorted_source_hold() -> None:
    labels = np.sort(np.arange(40_000) % 100)
    shares = [
        measure_shuffle(SampleOrder(40_000, 0, block=16, window=window), labels, 64).entropy_share or 0
        for window in (0, 256, 4096)
    ]
    assert shares == sorted(shares)
    assert shares[2] - shares[0] > 0.4


def test_samples_that_are_dropped_in_every_epoch_are_counted() -> None:
    labels = np.arange(104) % 2
    dropped = measure_shuffle(SampleOrder(104, 0, block=50), labels, 25).always_dropped
    assert dropped.measured == 4  # the last partial block ends every epoch
    assert dropped.expected == pytest.approx(4 * (4 / 104) ** 2)
    assert measure_shuffle(SampleOrder(104, 0), labels, 25).always_dropped.measured == 0


def test_without_classes_neighbours_decide() -> None:
    unlabelled = np.full(40_000, -1)
    assert measure_shuffle(SampleOrder(40_000, 0), unlabelled, 64).grade == "perfect"
    assert measure_shuffle(SampleOrder(40_000, 0, block=16), unlabelled, 64).grade == "fair"
    assert measure_shuffle(SampleOrder(40_000, 0), unlabelled, 64).class_entropy is None


def test_a_subset_is_measured_by_its_own_neighbours() -> None:
    order = SubsetOrder(np.arange(0, 40_000, 2), 40_000, 0, block=8)
    quality = measure_shuffle(order, np.arange(40_000) % 7, 64)
    assert quality.adjacent_share.measured > 0.8


def test_what_cannot_be_measured_is_refused() -> None:
    order = SampleOrder(100, 0)
    with pytest.raises(ValueError, match="epochs must be >= 2"):
        measure_shuffle(order, np.zeros(100), 10, epochs=1)
    with pytest.raises(ValueError, match="larger than the data set of 100"):
        measure_shuffle(order, np.zeros(100), 101)
    with pytest.raises(ValueError, match="repeats ids"):
        measure_shuffle(WeightedOrder([1, 2], 4, 0), np.zeros(2), 2)
    with pytest.raises(ValueError, match="at most 16777216 are measured"):
        measure_shuffle(SampleOrder(2**24 + 1, 0), np.zeros(1), 2)
