"""A data set as a source: the same samples again, cut, re-shuffled, and never with a flipped bit."""

from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset

from tests.shards.pictures import tree_hashes, write_tree


@pytest.fixture
def first(tmp_path: Path) -> Path:
    convert(write_tree(tmp_path / "tree"), tmp_path / "first")
    return tmp_path / "first"


def samples(dataset: Path) -> dict[str, tuple[bytes, int]]:
    with Dataset.open(dataset) as opened:
        ids = range(opened.num_samples)
        labels = opened.labels(ids).tolist()
        return {opened.keys([i])[0]: (opened.read([i])[0], labels[i]) for i in ids}


def test_a_data_set_of_the_same_order_has_the_same_hash(first: Path, tmp_path: Path) -> None:
    report = convert(first, tmp_path / "second", shard_bytes=10_000)
    assert report.data_set_hash == read_info(first).data_set_hash
    assert report.shards > 1
    assert (report.inputs, report.quarantined) == (13, 0)
    assert samples(tmp_path / "second") == samples(first)


def test_another_seed_gives_the_same_samples_in_another_order(first: Path, tmp_path: Path) -> None:
    convert(first, tmp_path / "second", shuffle_seed=5)
    assert samples(tmp_path / "second") == samples(first)
    assert list(samples(tmp_path / "second")) != list(samples(first))


def test_a_limit_takes_the_first_of_the_order(first: Path, tmp_path: Path) -> None:
    report = convert(first, tmp_path / "second", limit=5)
    assert (report.inputs, report.samples) == (5, 5)
    assert list(samples(tmp_path / "second")) == list(samples(first))[:5]


def test_workers_do_not_change_a_byte(first: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        convert(first, tmp_path / f"of_{workers}", shard_bytes=10_000, workers=workers)
    assert tree_hashes(tmp_path / "of_1") == tree_hashes(tmp_path / "of_2")


def test_a_flipped_bit_of_the_source_is_quarantined_not_copied(first: Path, tmp_path: Path) -> None:
    with Dataset.open(first) as dataset:
        row = dataset.manifest[4]
        key = dataset.keys([4])[0]
    content = bytearray((first / "train-000000.tar").read_bytes())
    content[int(row["offset"]) + 200] ^= 1
    (first / "train-000000.tar").write_bytes(content)
    report = convert(first, tmp_path / "second")
    assert (report.samples, report.reasons) == (12, {"damaged": 1})
    assert key not in samples(tmp_path / "second")


@pytest.mark.parametrize("name", ["manifest.bin", "manifest.parquet"])
def test_a_flipped_bit_of_the_manifest_is_an_error_and_no_new_label(
    first: Path, tmp_path: Path, name: str
) -> None:
    content = bytearray((first / name).read_bytes())
    content[16] ^= 1  # the first label, in manifest.bin
    (first / name).write_bytes(content)
    with pytest.raises(ShardError, match=rf"{name}: .*dataset\.json states; run: viewmill verify"):
        convert(first, tmp_path / "second")
