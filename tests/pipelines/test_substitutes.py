"""One bad sample costs one sample, and a pass that must be exact does not bear any."""

import logging
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from viewmill.pipelines.executors.executor import BatchDecodeError
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.flow.substitutes import Substitution, substitute_of
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.passes import ids_of_rank, read_once
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.views import preset
from viewmill.shards.errors import ShardError
from viewmill.shards.manifest import RECORD, Dataset

from tests.pipelines.installed import installed_executors
from tests.pipelines.photographs import write_dataset
from tests.shards.restating import describe_again

NUM_SAMPLES = 24
SPEC = preset("hydes@32")
CUT_KEYS = ("class0/tile006", "class1/tile010")
EXECUTORS = installed_executors()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("whole"), NUM_SAMPLES)


@pytest.fixture(scope="module")
def cut(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set two of whose images are cut short, with the hashes of what is left of them."""
    folder = tmp_path_factory.mktemp("cut") / "dataset"
    shutil.copytree(whole, folder)
    manifest = np.memmap(folder / "manifest.bin", dtype=RECORD, mode="r+")
    for sample in bad_ids(whole, *CUT_KEYS):
        with Dataset.open(whole) as dataset:
            (image,) = dataset.read([sample])
        manifest["size"][sample] -= 300
        manifest["xxh64"][sample] = xxhash.xxh64_intdigest(image[:-300])
    manifest.flush()
    describe_again(folder, "manifest.bin")
    return folder


def with_flipped_bits(whole: Path, folder: Path, ids: list[int]) -> Path:
    """A copy of the data set in which one bit of these samples' images differs."""
    shutil.copytree(whole, folder)
    with Dataset.open(whole) as dataset:
        for sample in ids:
            row = dataset.manifest[sample]
            shard = folder / dataset.info.shards[row["shard"]].name
            data = bytearray(shard.read_bytes())
            data[int(row["offset"]) + int(row["size"]) // 2] ^= 4
            shard.write_bytes(data)
    return folder


def epoch_of(path: Path, executor: str, **options: float) -> tuple[list[Batch], list[Substitution]]:
    with (
        Dataset.open(path) as dataset,
        Loader(dataset, SPEC, 8, executor=executor, num_threads=1, **options) as loader,
    ):
        batches = list(loader)
        made = [entry for entry in loader.substitutions if entry.epoch == 0]
    return batches, made


def ids_of(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.ids for batch in batches])


def bad_ids(path: Path, *keys: str) -> list[int]:
    with Dataset.open(path) as dataset:
        return [dataset.keys(np.arange(NUM_SAMPLES)).index(key) for key in keys]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_image_that_does_not_decode_is_replaced_and_the_others_stay(cut: Path, executor: str) -> None:
    bad = bad_ids(cut, *CUT_KEYS)
    batches, made = epoch_of(cut, executor)
    planned = SampleOrder(NUM_SAMPLES, 0).ids(0, 0, NUM_SAMPLES)
    ids = ids_of(batches)
    assert sorted(planned[ids != planned]) == sorted(bad)
    assert not set(bad) & set(ids)
    for entry in made:
        assert planned[entry.position] == entry.id or entry.id in bad
        assert entry.reason
    final = {entry.position: entry.substitute for entry in made}
    assert {position: int(ids[position]) for position in final} == final


def test_the_substitute_and_its_views_are_those_of_the_plan(cut: Path) -> None:
    batches, made = epoch_of(cut, "reference")
    batch = batches[made[-1].position // 8]
    with Dataset.open(cut) as dataset:
        plan = ViewPlanner(SPEC, 0).draw(0, batch.ids, dataset.sizes(batch.ids))
        expected = ReferenceExecutor(SPEC, max_batch=8).run(dataset.read(batch.ids), plan)
        np.testing.assert_array_equal(batch.labels, dataset.labels(batch.ids))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(batch.views, expected, strict=True))


@pytest.mark.parametrize("executor", EXECUTORS[1:])
def test_every_executor_takes_the_same_substitutes(cut: Path, executor: str) -> None:
    (batches, made), (others, others_made) = (epoch_of(cut, name) for name in (executor, EXECUTORS[0]))
    np.testing.assert_array_equal(ids_of(batches), ids_of(others))
    # Reasons may be worded otherwise.
    assert [entry[:4] for entry in made] == [entry[:4] for entry in others_made]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_flipped_bit_is_replaced_too_and_its_key_logged(
    whole: Path, tmp_path: Path, executor: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = with_flipped_bits(whole, tmp_path / "dataset", [3])
    with Dataset.open(path) as dataset:
        key = dataset.keys([3])[0]
    with caplog.at_level(logging.WARNING, logger="viewmill"):
        batches, made = epoch_of(path, executor)
    assert 3 not in ids_of(batches)
    assert made[0].id == 3
    assert "hash" in made[0].reason
    assert f"'{key}'" in caplog.text


def test_a_rank_replaces_its_own_samples_as_one_rank_would(cut: Path) -> None:
    alone = ids_of(epoch_of(cut, "reference")[0]).reshape(3, 2, 4)
    ranks = [epoch_of(cut, "reference", rank=rank, world_size=2)[0] for rank in range(2)]
    both = np.stack([[batch.ids for batch in batches] for batches in ranks], axis=1)
    np.testing.assert_array_equal(both, alone)


def test_a_budget_that_is_used_up_stops_the_run_and_names_the_keys(cut: Path) -> None:
    with pytest.raises(RuntimeError, match="2 samples cannot be used, 1 are allowed") as caught:
        epoch_of(cut, "reference", max_substitutes=1)
    assert "class0/tile006" in str(caught.value)
    assert "class1/tile010" in str(caught.value)


def test_a_sample_counts_once_however_often_it_returns(cut: Path) -> None:
    with (
        Dataset.open(cut) as dataset,
        Loader(dataset, SPEC, 8, executor="reference", num_threads=1, max_substitutes=2) as loader,
    ):
        for _ in range(4):
            list(loader)
        assert loader.substituted >= 8


def test_a_data_set_without_one_good_sample_ends_instead_of_searching(whole: Path, tmp_path: Path) -> None:
    path = with_flipped_bits(whole, tmp_path / "dataset", list(range(NUM_SAMPLES)))
    with pytest.raises(RuntimeError, match="24 samples cannot be used"):
        epoch_of(path, "reference", max_substitutes=1000)


def test_the_budget_may_be_a_share_of_the_samples(cut: Path) -> None:
    epoch_of(cut, "reference", max_substitutes=2 / NUM_SAMPLES)
    with pytest.raises(RuntimeError, match="2 samples cannot be used, 1 are allowed"):
        epoch_of(cut, "reference", max_substitutes=1.9 / NUM_SAMPLES)


def test_a_budget_that_is_no_number_of_samples_is_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match="max_substitutes must be >= 0"):
        epoch_of(whole, "reference", max_substitutes=-1)
    for share in (1.5, float("nan")):
        with pytest.raises(ValueError, match="a share below 1"):
            epoch_of(whole, "reference", max_substitutes=share)


def test_the_stats_count_what_was_replaced(cut: Path) -> None:
    with (
        Dataset.open(cut) as dataset,
        Loader(dataset, SPEC, 8, executor="reference", num_threads=1) as loader,
    ):
        list(loader)
        stats = loader.stats()
        assert stats.bad_samples == 2
        assert stats.substituted >= 2
        assert f"{stats.substituted} substituted" in str(stats)


def test_substitutes_are_spread_over_the_data_set_and_change_with_every_part_of_the_key() -> None:
    drawn = np.array([substitute_of(0, 0, sample, 0, SampleOrder(10, 0)) for sample in range(2000)])
    counts = np.bincount(drawn, minlength=10)
    assert counts.min() > 140  # 200 each, standard deviation 13
    assert counts.max() < 260
    one = substitute_of(1, 2, 3, 4, SampleOrder(10**12, 0))
    others = [(0, 2, 3, 4), (1, 0, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0)]
    assert one not in [substitute_of(*key, SampleOrder(10**12, 0)) for key in others]


@given(num_samples=st.integers(1, 10**6), world_size=st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_shares_of_a_pass_cover_every_sample_once_and_evenly(num_samples: int, world_size: int) -> None:
    shares = [ids_of_rank(num_samples, rank, world_size) for rank in range(world_size)]
    assert shares[0].start == 0
    assert shares[-1].stop == num_samples
    assert all(one.stop == next_.start for one, next_ in pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.fixture(scope="module")
def dataset(whole: Path) -> Iterator[Dataset]:
    with Dataset.open(whole) as opened:
        yield opened


@pytest.mark.parametrize("world_size", [1, 2, 5, 30])
@pytest.mark.parametrize("batch_size", [1, 7, 24, 100])
def test_a_pass_reads_every_sample_once_with_the_views_of_epoch_0(
    dataset: Dataset, world_size: int, batch_size: int
) -> None:
    spec, ids, views = preset("eval@16"), [], []
    for rank in range(world_size):
        for batch in read_once(
            dataset, spec, batch_size, executor="reference", num_threads=1, rank=rank, world_size=world_size
        ):
            assert 1 <= len(batch.ids) <= batch_size
            ids += batch.ids.tolist()
            views.append(batch.views[0])
    everything = np.arange(NUM_SAMPLES)
    assert ids == everything.tolist()
    plan = ViewPlanner(spec, 0).draw(0, everything, dataset.sizes(everything))
    (expected,) = ReferenceExecutor(spec, max_batch=NUM_SAMPLES).run(dataset.read(everything), plan)
    assert torch.equal(torch.cat(views), expected)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_pass_refuses_a_bad_sample_by_its_key(
    cut: Path, whole: Path, tmp_path: Path, executor: str
) -> None:
    with Dataset.open(cut) as dataset, pytest.raises(BatchDecodeError, match="'class"):
        list(read_once(dataset, "eval@16", 8, executor=executor))
    flipped = with_flipped_bits(whole, tmp_path / "dataset", [3])
    with Dataset.open(flipped) as dataset, pytest.raises(ShardError, match="sample 'class"):
        list(read_once(dataset, "eval@16", 8, executor=executor))


def test_a_pass_refuses_wrong_numbers_before_it_begins(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match="rank must lie in"):
        read_once(dataset, "eval", 8, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        read_once(dataset, "eval", 0)
