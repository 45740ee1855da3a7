"""Weights: how often a sample comes is the nearest whole number to its share, and exact on average."""

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from viewmill.pipelines.orders.weighted import WeightedOrder, weights_of_classes, whole_weights


def counts_of(order: WeightedOrder, epoch: int) -> np.ndarray:
    return np.bincount(order.ids(epoch, 0, order.num_samples), minlength=order.num_ids)


def random_weights(num_ids: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.exponential(size=num_ids) * (generator.random(num_ids) > 0.2)


@pytest.mark.parametrize("length", [1, 7, 100, 2000])
@pytest.mark.parametrize(("block", "window"), [(1, 0), (8, 40)])
def test_a_sample_comes_as_often_as_its_share_rounded_down_or_up(
    length: int, block: int, window: int
) -> None:
    weights = random_weights(150)
    order = WeightedOrder(weights, length, seed=5, block=block, window=window)
    share = length * weights / weights.sum()
    for epoch in range(20):
        counts = counts_of(order, epoch)
        assert counts.sum() == length
        assert (counts >= np.floor(share - 1e-6)).all()
        assert (counts <= np.ceil(share + 1e-6)).all()
        assert not counts[weights == 0].any()


@pytest.mark.parametrize(
    ("weights", "length"), [([3, 1, 1], 4), ([5, 0, 2, 7], 9), ([1] * 6, 4), ([4, 4], 3)]
)
def test_over_as_many_epochs_as_there_are_starts_the_counts_are_exact(
    weights: Sequence[int], length: int
) -> None:
    order, total = WeightedOrder(weights, length, seed=1), sum(weights)
    counts = sum(counts_of(order, epoch) for epoch in range(total))
    assert counts.tolist() == [length * weight for weight in weights]


def test_over_a_few_epochs_the_counts_stay_near_their_shares() -> None:
    weights, length = random_weights(400), 1000
    order = WeightedOrder(weights, length, seed=2)
    share, counts = length * weights / weights.sum(), np.zeros(400)
    for epoch in range(100):
        counts += counts_of(order, epoch)
        # Independent rounding would be off by up to 3 standard deviations of 0.5 sqrt(epochs): 15 at the end.
        assert np.abs(counts - (epoch + 1) * share).max() < 3.5


def test_the_expected_count_over_seeds_is_the_share() -> None:
    weights, length, seeds = np.array([0.3, 0.05, 1.0, 0.4]), 3, 300
    counts = sum(counts_of(WeightedOrder(weights, length, seed), 0) for seed in range(seeds))
    share = length * weights / weights.sum()
    # A count is off by a fraction f or 1 - f: its standard error is sqrt(f (1 - f) / seeds) <= 0.029.
    np.testing.assert_allclose(counts / seeds, share, atol=0.1)


def test_pieces_equal_the_whole_and_epochs_differ() -> None:
    order = WeightedOrder(random_weights(60), 203, seed=1, block=10, window=50)
    whole = order.ids(4, 0, 203)
    for start, stop in itertools.combinations(range(0, 204, 29), 2):
        np.testing.assert_array_equal(order.ids(4, start, stop), whole[start:stop])
    assert (order.ids(5, 0, 203) != whole).mean() > 0.5


def test_large_weights_and_lengths_stay_inside_64_bits() -> None:
    weights = np.array([2**57 - 1, 3, 2**57 - 7, 2**56])
    order, total = WeightedOrder(weights, 2**30, seed=9), int(weights.sum())
    offset = (order._first + 3 * order._step) % total
    place = int(order._order.ids(3, 2**30 - 5, 2**30 - 4)[0])
    point = (place * total + offset) // 2**30  # in Python's own numbers
    expected = int(np.searchsorted(np.cumsum(weights), point, side="right"))
    assert order.ids(3, 2**30 - 5, 2**30 - 4).tolist() == [expected]


def test_whole_numbers_are_kept_and_others_keep_their_proportion() -> None:
    assert whole_weights([3, 0, 7]).tolist() == [3, 0, 7]
    assert whole_weights(np.array([2**63, 2**63], dtype=np.uint64)).sum() < 2**60
    weights = random_weights(1000)
    whole = whole_weights(weights)
    np.testing.assert_allclose(whole / whole.max(), weights / weights.max(), atol=2.0**-40)
    assert whole.sum() < 2**60


def test_classes_of_equal_weight_come_equally_often_whatever_their_size() -> None:
    labels = np.repeat([0, 1, 2, -1], [5, 50, 500, 10])
    order = WeightedOrder(weights_of_classes(labels, [1, 1, 1]), 3000, seed=0)
    ids = order.ids(0, 0, 3000)
    assert np.abs(np.bincount(labels[ids], minlength=3) - 1000).max() <= 1
    assert np.bincount(ids)[:5].tolist() == [200] * 5


def test_stand_ins_come_as_often_as_their_weights() -> None:
    order = WeightedOrder([1, 0, 3], 4, 0)
    assert [order.stand_in(0, word) for word in range(4)] == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([], "one list of numbers"),
        ([1, -2], "weight of id 1 is -2"),
        ([1.0, float("nan")], "weight of id 1 is nan"),
        ([float("inf"), 1.0], "weight of id 0 is inf"),
        ([0, 0], "all 2 weights are 0"),
        ([1.0, 1e-30], "id 1 is 1e-30, too small beside the largest"),
        (["a"], "one list of numbers"),
    ],
)
def test_impossible_weights_are_refused(weights: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        WeightedOrder(weights, 4, 0)


def test_impossible_lengths_and_class_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="length of an epoch"):
        WeightedOrder([1], 0, 0)
    with pytest.raises(ValueError, match="2 class weights, but a sample has class 2"):
        weights_of_classes(np.array([0, 2]), [1, 1])
    with pytest.raises(ValueError, match=r"class 1 has the weight 1\.0 and no sample"):
        weights_of_classes(np.array([0, 2]), [1, 1, 1])


def test_a_state_tells_other_weights_apart() -> None:
    described = [WeightedOrder(weights, 4, 0).describe() for weights in ([1, 2], [2, 4], [1, 2])]
    assert described[0] == described[2] != described[1]


def test_the_order_of_this_version_never_changes() -> None:
    # A change here breaks saved runs: raise WEIGHTED_VERSION with it.
    order = WeightedOrder([Fraction(i % 7, 7) for i in range(1)] and np.arange(1000) % 7 / 7, 500, seed=11)
    assert order.ids(3, 0, 5).tolist() == [642, 209, 460, 507, 549]
