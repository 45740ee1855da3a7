"""Mixtures: every prefix of the run is in proportion, and every part goes through its own epochs."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.mixture import MixtureOrder, Part, fair_schedule, seed_of_part, whole_shares
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.orders.weighted import WeightedOrder

SHARES = [(1,), (1, 1), (7, 2, 1), (1, 1, 1, 1, 1), (50, 1), (97, 2, 1), (3, 5, 7, 11, 13), (19, 19, 1, 1, 1)]


def mixture(
    *shares: float, sizes: tuple[int, ...] = (100, 37, 11), length: int | None = None
) -> MixtureOrder:
    parts = [
        Part(SampleOrder(size, seed=number), share)
        for number, (size, share) in enumerate(zip(sizes, shares, strict=True))
    ]
    return MixtureOrder(parts, num_samples=length)


@pytest.mark.parametrize("shares", SHARES)
def test_every_prefix_of_the_schedule_keeps_the_proportion_within_one(shares: tuple[int, ...]) -> None:
    schedule, total, parts = fair_schedule(shares), sum(shares), len(shares)
    assert np.bincount(schedule).tolist() == list(shares)
    had = (schedule == np.arange(parts)[:, None]).cumsum(axis=1)
    owed = np.arange(1, total + 1) * np.array(shares)[:, None]
    bound = 1 - 1 / (2 * parts - 2) if parts > 1 else 0
    assert np.abs(had * total - owed).max() <= bound * total


def test_every_prefix_of_the_run_keeps_the_proportion_over_the_ends_of_epochs() -> None:
    order = mixture(0.7, 0.2, 0.1, length=143)
    run = np.concatenate([order.ids(epoch, 0, 143) for epoch in range(6)])
    part = np.searchsorted([100, 137], run, side="right")
    had = (part == np.arange(3)[:, None]).cumsum(axis=1)
    assert np.abs(had - np.arange(1, len(run) + 1) * np.array([[0.7], [0.2], [0.1]])).max() < 1


def test_a_part_goes_through_its_own_epochs_one_after_the_other() -> None:
    order = mixture(0.7, 0.2, 0.1, length=143)
    run = np.concatenate([order.ids(epoch, 0, 143) for epoch in range(6)])
    small = run[run >= 137] - 137
    own = SampleOrder(11, seed=2)
    expected = np.concatenate([own.ids(epoch, 0, 11) for epoch in range(8)])
    np.testing.assert_array_equal(small, expected[: len(small)])
    assert len(small) > 77


def test_pieces_equal_the_whole() -> None:
    order = mixture(3, 2, 4, length=203)
    whole = order.ids(7, 0, 203)
    for start, stop in itertools.combinations(range(0, 204, 29), 2):
        np.testing.assert_array_equal(order.ids(7, start, stop), whole[start:stop])


def test_far_positions_cost_no_more_than_the_first() -> None:
    order = mixture(1, 1, sizes=(10**9, 10**6), length=10**9)
    ids = order.ids(10**5, 10**9 - 4, 10**9)
    own = [SampleOrder(10**9, 0), SampleOrder(10**6, 1)]
    place = (10**5 + 1) * 10**9 // 2 - 2
    expected = [own[0].ids(place // 10**9, place % 10**9, place % 10**9 + 2),
                own[1].ids(place // 10**6, place % 10**6, place % 10**6 + 2) + 10**9]  # fmt: skip
    assert sorted(ids.tolist()) == sorted(np.concatenate(expected).tolist())


def test_an_epoch_is_as_long_as_the_parts_together_where_nothing_is_said() -> None:
    assert mixture(1, 1, 1).num_samples == 148
    with pytest.raises(ValueError, match=r"\[0, 149\) are not inside an epoch of 148"):
        mixture(1, 1, 1).ids(0, 0, 149)
    with pytest.raises(ValueError, match="num_samples must be >= 1, got 0"):
        mixture(1, 1, 1, length=0)


def test_orders_of_every_kind_can_be_parts() -> None:
    parts = [
        Part(SubsetOrder([1, 4, 5], 10, 0), 1),
        Part(WeightedOrder([0, 1, 3], 4, 0), 1),
        Part(mixture(1, 1, sizes=(2, 2)), 2),
    ]
    order = MixtureOrder(parts)
    assert order.num_ids == 10 + 3 + 4
    ids = order.ids(0, 0, 8)
    assert set(ids[ids < 10]) <= {1, 4, 5}
    assert set(ids[(ids >= 10) & (ids < 13)]) <= {11, 12}
    assert (ids >= 13).sum() == 4


def test_a_sample_is_replaced_by_one_of_its_own_part() -> None:
    order = mixture(1, 1, 1)
    assert {order.stand_in(99, word) // 100 for word in range(300)} == {0}
    assert {order.stand_in(100, word) for word in range(300)} == set(range(100, 137))
    assert {order.stand_in(147, word) for word in range(300)} == set(range(137, 148))


def test_shares_are_taken_as_they_are_written() -> None:
    assert whole_shares([0.7, 0.2, 0.1]) == (7, 2, 1)
    assert whole_shares([4, 6]) == (2, 3)
    assert whole_shares(["1/3", Fraction(2, 3)]) == (1, 2)
    assert whole_shares([5]) == (1,)


@pytest.mark.parametrize(
    ("shares", "named"),
    [
        ([], "at least one data set"),
        ([1, 0], "got 0; leave the data set out"),
        ([1, -1], "got -1"),
        ([1, float("nan")], "got nan"),
        ([1, "half"], "got 'half'"),
        ([1, "1/0"], "got '1/0'"),
        ([0.123456, 0.876543], "round them, for example to whole percents"),
    ],
)
def test_impossible_shares_are_refused(shares: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        MixtureOrder([Part(SampleOrder(3, 0), share) for share in shares])


def test_no_two_parts_share_a_seed() -> None:
    assert len({seed_of_part(seed, part) for seed in range(30) for part in range(30)}) == 900


def test_the_order_of_this_version_never_changes() -> None:
    # A change here breaks saved runs: raise MIXTURE_VERSION with it.
    assert mixture(7, 2, 1).ids(9, 0, 10).tolist() == [101, 53, 3, 145, 21, 43, 127, 39, 99, 81]
    assert fair_schedule((7, 2, 1)).tolist() == [0, 0, 1, 0, 0, 2, 0, 0, 1, 0]
