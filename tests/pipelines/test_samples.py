"""Several data sets as one, and the Loader on it: labels, keys and bytes are those of the parts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.loader import Loader
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.mixture import MixtureOrder, Part
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.orders.weighted import WeightedOrder
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.samples import JoinedDataset
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset

from tests.pipelines.photographs import write_dataset

SPEC = preset("hydes@16")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Dataset]]:
    folders: list[Path] = [write_dataset(tmp_path_factory.mktemp("part"), count) for count in (9, 4)]
    with Dataset.open(folders[0]) as first, Dataset.open(folders[1]) as second:
        yield [first, second]


def test_a_joined_data_set_gives_what_its_parts_give(parts: list[Dataset]) -> None:
    joined = JoinedDataset(parts)
    ids = np.array([12, 0, 9, 8, 8, 11])
    own = [(1, 3), (0, 0), (1, 0), (0, 8), (0, 8), (1, 2)]
    assert joined.num_samples == 13
    assert joined.part_of(ids).tolist() == [part for part, _ in own]
    assert joined.read(ids) == [parts[part].read([sample])[0] for part, sample in own]
    assert joined.sizes(ids).tolist() == [parts[part].sizes([sample])[0].tolist() for part, sample in own]
    assert joined.labels(ids).tolist() == [parts[part].labels([sample])[0] for part, sample in own]
    assert joined.keys(ids) == [f"{part}:{parts[part].keys([sample])[0]}" for part, sample in own]
    assert not joined.is_remote
    joined.prefetch(ids)
    assert joined.read([]) == []


def test_its_hash_is_that_of_its_parts_in_their_order(parts: list[Dataset]) -> None:
    hashes = {
        JoinedDataset(chosen).data_set_hash for chosen in (parts, parts[::-1], parts[:1], parts[:1] * 2)
    }
    assert len(hashes) == 4
    assert JoinedDataset(parts).data_set_hash in hashes


def test_ids_outside_and_no_parts_are_refused(parts: list[Dataset]) -> None:
    for sample in (-1, 13):
        with pytest.raises(IndexError, match=f"no sample {sample}, ids go from 0 to 12"):
            JoinedDataset(parts).read([0, sample])
    with pytest.raises(ValueError, match="at least one data set"):
        JoinedDataset([])


def test_the_loader_takes_a_mixture_and_goes_on_with_it_after_a_stop(parts: list[Dataset]) -> None:
    joined = JoinedDataset(parts)

    def loader() -> Loader:
        order = MixtureOrder([Part(SampleOrder(9, 1), 3), Part(SampleOrder(4, 2), 1)])
        return Loader(joined, SPEC, 4, executor="reference", num_threads=1, order=order)

    with loader() as first:
        whole = [batch for _ in range(2) for batch in first]
    for batch in whole:
        assert (joined.part_of(batch.ids) == 1).sum() == 1
        assert batch.labels.tolist() == joined.labels(batch.ids).tolist()
    with loader() as first:
        next(iter(first))
        state = first.state_dict()
    with loader() as second:
        second.load_state_dict(state)
        rest = [batch for _ in range(2) for batch in second]
    assert [batch.ids.tolist() for batch in rest] == [batch.ids.tolist() for batch in whole[1:]]
    assert all((a.views[0] == b.views[0]).all() for a, b in zip(rest, whole[1:], strict=True))


def test_copies_of_a_sample_in_one_epoch_have_views_of_their_own(parts: list[Dataset]) -> None:
    order = WeightedOrder([0] * 8 + [1], 4, 0)
    with Loader(parts[0], SPEC, 4, executor="reference", num_threads=1, order=order) as loader:
        batch = next(iter(loader))
    assert batch.ids.tolist() == [8] * 4
    assert len({view.numpy().tobytes() for view in batch.views[0]}) == 4
    plan = ViewPlanner(SPEC, 0).draw(0, np.arange(4), parts[0].sizes(batch.ids))
    expected = ReferenceExecutor(SPEC, max_batch=4).run(parts[0].read(batch.ids), plan)
    assert (batch.views[3] == expected[3]).all()


def test_an_epoch_of_a_subset_is_its_members(parts: list[Dataset]) -> None:
    members = [1, 2, 3, 5, 7, 8]
    order = SubsetOrder(members, 9, 0)
    with Loader(parts[0], SPEC, 3, executor="reference", num_threads=1, order=order) as loader:
        assert loader.steps_per_epoch == 2
        assert sorted(np.concatenate([batch.ids for batch in loader]).tolist()) == members


def test_an_order_of_another_data_set_or_beside_block_and_window_is_refused(parts: list[Dataset]) -> None:
    with pytest.raises(ValueError, match="the order is of 8 samples"):
        Loader(parts[0], SPEC, 4, executor="reference", order=SampleOrder(8, 0))
    with pytest.raises(ValueError, match="block 2 and window 0 beside an order"):
        Loader(parts[0], SPEC, 4, executor="reference", order=SampleOrder(9, 0), block=2)


def test_a_state_of_another_kind_of_order_is_refused_with_both(parts: list[Dataset]) -> None:
    orders = [SampleOrder(9, 0), SubsetOrder(range(8), 9, 0), SubsetOrder(range(1, 9), 9, 0)]
    loaders = [
        Loader(parts[0], SPEC, 4, executor="reference", num_threads=1, order=order) for order in orders
    ]
    with pytest.raises(ValueError, match=r"has order \{'kind': 'samples'.*this run has \{'kind': 'subset'"):
        loaders[1].load_state_dict(loaders[0].state_dict())
    with pytest.raises(
        ValueError, match=r"has order.members_sha256 '[0-9a-f]{64}', this run has '[0-9a-f]{64}'"
    ):
        loaders[2].load_state_dict(loaders[1].state_dict())
    for loader in loaders:
        loader.close()
