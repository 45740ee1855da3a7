"""An order of some of the samples: every member once an epoch, and choices that are facts of the seed."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from viewmill.pipelines.orders.subset import SubsetOrder, capped, members_of_classes, read_ids

LABELS = np.array([0, 1, 2, 1, 0, 1, 1, 2, -1, 1, 0, 2])


@pytest.mark.parametrize(("block", "window"), [(1, 0), (8, 0), (8, 40)])
def test_every_epoch_holds_each_member_once_however_it_is_cut(block: int, window: int) -> None:
    members = np.random.default_rng(0).choice(10**12, 203, replace=False)
    order = SubsetOrder(members, 10**12, seed=3, block=block, window=window)
    whole = order.ids(4, 0, 203)
    assert sorted(whole.tolist()) == sorted(members.tolist())
    assert whole.dtype == np.int64
    for start, stop in itertools.combinations(range(0, 204, 29), 2):
        np.testing.assert_array_equal(order.ids(4, start, stop), whole[start:stop])


def test_blocks_hold_members_that_are_neighbours_on_disk() -> None:
    order = SubsetOrder(np.arange(0, 800, 2)[::-1], 800, seed=0, block=20)
    assert (np.diff(order.ids(0, 0, 400).reshape(20, 20), axis=1) == 2).all()


def test_the_order_of_the_list_does_not_matter_and_other_members_are_another_order() -> None:
    members = np.array([5, 1, 7])
    same, other = SubsetOrder(members[::-1], 9, 0), SubsetOrder([1, 5, 8], 9, 0)
    first = SubsetOrder(members, 9, 0)
    np.testing.assert_array_equal(first.ids(0, 0, 3), same.ids(0, 0, 3))
    assert first.describe() == same.describe()
    assert first.describe() != other.describe()
    assert first.describe() != SubsetOrder(members, 9, 1).describe()


def test_a_member_is_replaced_by_a_member() -> None:
    order = SubsetOrder([3, 5, 8], 10, 0)
    assert {order.stand_in(5, word) for word in range(2**64 - 9, 2**64)} == {3, 5, 8}


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ([], "at least one id"),
        ([1, 2, 1], "id 1 stands twice"),
        ([3, 10], "id 10 of the subset is not in a data set of 10"),
        ([-1, 3], "id -1 of the subset"),
        ([0.5], "whole numbers, got float64"),
        ([[1], [2]], "one list"),
    ],
)
def test_impossible_subsets_are_refused(members: list[int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SubsetOrder(members, 10, 0)


def test_a_cap_takes_so_many_of_every_class_and_all_of_a_smaller_one() -> None:
    chosen = capped(LABELS, 2, 0, members=np.flatnonzero(LABELS >= 0))
    assert (np.diff(chosen) > 0).all()
    assert np.bincount(LABELS[chosen]).tolist() == [2, 2, 2]
    assert np.bincount(LABELS[capped(LABELS, 4, 0, members=np.flatnonzero(LABELS >= 0))]).tolist() == [
        3,
        4,
        3,
    ]


def test_a_smaller_cap_is_part_of_a_larger_one() -> None:
    labels = np.random.default_rng(0).integers(0, 20, 3000)
    choices = [set(capped(labels, cap, 7).tolist()) for cap in (1, 5, 13, 100)]
    assert all(small < large for small, large in itertools.pairwise(choices))


def test_every_sample_of_a_class_is_chosen_equally_often_over_seeds() -> None:
    labels = np.repeat([0, 1], [15, 25])
    chosen = np.concatenate([capped(labels, 3, seed) for seed in range(1000)])
    counts = np.bincount(chosen, minlength=40)
    assert stats.chisquare(counts[:15]).pvalue > 1e-3
    assert stats.chisquare(counts[15:]).pvalue > 1e-3


def test_samples_without_a_class_are_not_left_out_silently() -> None:
    with pytest.raises(ValueError, match=r"1 samples have no class \(the first is id 8\)"):
        capped(LABELS, 2, 0)


def test_classes_are_chosen_by_number() -> None:
    assert members_of_classes(LABELS, [2, 0]).tolist() == [0, 2, 4, 7, 10, 11]
    with pytest.raises(ValueError, match="no sample has class 5"):
        members_of_classes(LABELS, [0, 5])


def test_a_file_of_ids_is_text_or_an_array(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("4\n 17\n2\n")
    np.save(tmp_path / "ids.npy", np.array([2, 4, 17]))
    assert read_ids(tmp_path / "ids.txt").tolist() == [4, 17, 2]
    mapped = read_ids(tmp_path / "ids.npy")
    assert isinstance(SubsetOrder(mapped, 20, 0).members, np.memmap)  # sorted already: not copied
    with pytest.raises(FileNotFoundError):
        read_ids(tmp_path / "missing.txt")


@pytest.mark.parametrize("text", ["1\nx\n", "1\n\n2\n", "1\n-2\n", "1\n" + "9" * 30, "1\n2 3\n"])
def test_a_line_that_is_no_id_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(ValueError, match=r"ids.txt, line 2: expected one sample id"):
        read_ids(tmp_path / "ids.txt")


def test_a_pickled_array_is_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"ids.npy: no array of ids"):
        read_ids(tmp_path / "ids.npy")


def test_the_choice_of_this_version_never_changes() -> None:
    # A change here breaks saved runs: raise SUBSET_VERSION with it.
    labels = np.arange(1000) % 10
    assert capped(labels, 1, seed=4).tolist() == [
        160,
        176,
        492,
        657,
        661,
        668,
        674,
        773,
        775,
        969,
    ]
    assert SubsetOrder(np.arange(5, 1000, 5), 1000, seed=4).ids(1, 0, 4).tolist() == [185, 625, 640, 140]
