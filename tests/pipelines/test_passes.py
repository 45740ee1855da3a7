"""Passes in segments, and samples that are left out: every planned sample is read once, in any shares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from viewmill.pipelines.flow.left_out import LeftOut
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.passes import read_epochs, read_once, segments_of, share_of_segment
from viewmill.shards.manifest import Dataset

from tests.pipelines.damage import damaged
from tests.pipelines.installed import installed_executors
from tests.pipelines.photographs import write_dataset

NUM_SAMPLES = 24
FLIPPED, CUT = {1, 8, 9, 10, 11}, {4, 23}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole"), NUM_SAMPLES)


@pytest.mark.parametrize("world_size", [1, 2, 5, 30])
@pytest.mark.parametrize(("start", "segment"), [(0, None), (0, 7), (5, 1), (5, 100), (24, 3), (24, None)])
def test_segments_shared_out_hold_every_place_once(world_size: int, start: int, segment: int | None) -> None:
    places = [
        place
        for part in segments_of(NUM_SAMPLES, start, segment)
        for rank in range(world_size)
        for place in share_of_segment(part, rank, world_size)
    ]
    assert places == list(range(start, NUM_SAMPLES))


@pytest.mark.parametrize(("start", "segment"), [(25, None), (-1, None), (0, 0)])
def test_wrong_segments_are_refused(start: int, segment: int | None) -> None:
    with pytest.raises(ValueError, match="need 0 <= start <= 24 and a segment >= 1"):
        segments_of(NUM_SAMPLES, start, segment)


def test_a_pass_in_segments_has_the_views_of_a_pass_in_one(whole: Path) -> None:
    with Dataset.open(whole) as dataset:
        (one,) = read_once(dataset, "eval@16", NUM_SAMPLES, executor="reference")
        found = []
        for rank in range(2):
            options = {"executor": "reference", "rank": rank, "world_size": 2, "start": 3, "segment": 8}
            found += list(read_once(dataset, "eval@16", 3, **options))
    assert [len(batch.ids) for batch in found] == [3, 1] * 2 + [2] + [3, 1] * 2 + [3]
    order = np.argsort(np.concatenate([batch.ids for batch in found]))
    assert torch.equal(torch.cat([batch.views[0] for batch in found])[order], one.views[0][3:])


@pytest.mark.parametrize("executor", installed_executors())
def test_bad_samples_are_left_out_and_the_others_keep_their_views(
    whole: Path, tmp_path: Path, executor: str
) -> None:
    path = damaged(whole, tmp_path / "damaged", flipped=FLIPPED, cut=CUT)
    good = [sample for sample in range(NUM_SAMPLES) if sample not in FLIPPED | CUT]
    left_out = LeftOut(budget=7)
    with Dataset.open(path) as dataset, Dataset.open(whole) as undamaged:
        batches = list(read_once(dataset, "eval@16", 4, executor=executor, left_out=left_out))
        (expected,) = read_once(undamaged, "eval@16", NUM_SAMPLES, executor=executor, ids=good)
    assert [len(batch.ids) for batch in batches] == [3, 3, 0, 4, 4, 3]  # the third has bad ones alone
    assert np.concatenate([batch.ids for batch in batches]).tolist() == good
    torch.testing.assert_close(torch.cat([batch.views[0] for batch in batches]), expected.views[0])
    assert left_out.reasons.keys() == FLIPPED | CUT
    assert all("'class" in reason for reason in left_out.reasons.values())


def test_more_bad_samples_than_the_budget_end_the_pass(whole: Path, tmp_path: Path) -> None:
    path = damaged(whole, tmp_path / "damaged", flipped=FLIPPED, cut=CUT)
    with Dataset.open(path) as dataset, pytest.raises(RuntimeError, match="3 samples cannot be used, 2 may"):
        list(read_once(dataset, "eval@16", 4, executor="reference", left_out=LeftOut(budget=2)))


@pytest.mark.parametrize("world_size", [2, 7])  # of 7 some have none of a batch of 5
def test_epochs_hold_every_position_once_on_any_number_of_ranks(whole: Path, world_size: int) -> None:
    with Dataset.open(whole) as dataset:
        count = dataset.num_samples
        order = SampleOrder(count, seed=3)

        def rows(rank: int, ranks: int) -> dict[tuple[int, int], torch.Tensor]:
            batches = read_epochs(
                dataset, "supervised@16", 5, order, range(1, 3),
                executor="reference", rank=rank, world_size=ranks, seed=3,
            )  # fmt: skip
            return {
                (batch.epoch, int(sample)): view
                for batch in batches
                for sample, view in zip(batch.ids, batch.views[0], strict=True)
            }

        alone = rows(0, 1)
        shares = [rows(rank, world_size) for rank in range(world_size)]
        assert list(alone) == [
            (epoch, one) for epoch in (1, 2) for one in order.ids(epoch, 0, count).tolist()
        ]
        assert sum(len(share) for share in shares) == len(alone) == 2 * count
        for share in shares:
            assert all(torch.equal(view, alone[place]) for place, view in share.items())
        with pytest.raises(ValueError, match="batch_size must be >= 1"):
            read_epochs(dataset, "supervised@16", 0, order, range(1))
