"""A data set in a bucket: right bytes through any fault, a bounded cache, and exactly what was asked."""

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from viewmill.pipelines.loader import Loader
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError, StorageError
from viewmill.shards.manifest import Dataset
from viewmill.shards.storage.remote_shards import runs
from viewmill.shards.storage.shard_files import Range

from tests.shards.pictures import encoded, noise, tree_hashes
from tests.shards.remote.cached_bytes import bytes_below
from tests.shards.remote.faulty_proxy import FAULTS, FaultyProxy
from tests.shards.remote.servers import Web, upload

SAMPLES = 24


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("remote_dataset")
    for number in range(SAMPLES):
        path = top / "tree" / f"class_{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(number, 40, 40), "PNG"))
    convert(top / "tree", top / "dataset", shard_bytes=30_000)
    return top / "dataset"


@pytest.fixture(scope="module")
def remote(local: Path, shared_proxy: FaultyProxy) -> str:
    return upload(shared_proxy.upstream_port, local, "dataset")


@pytest.fixture
def images(local: Path) -> list[bytes]:
    with Dataset.open(local) as dataset:
        return dataset.read(range(SAMPLES))


@pytest.fixture
def opened(remote: str, tmp_path: Path, proxy: FaultyProxy) -> Iterator[Dataset]:
    with Dataset.open(remote, cache_folder=tmp_path / "cache") as dataset:
        proxy.heal()
        yield dataset


def wait_for_prefetching(dataset: Dataset) -> None:
    deadline = time.monotonic() + 10
    while dataset._shards._coming:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_the_data_set_that_was_uploaded(opened: Dataset, local: Path, images: list[bytes]) -> None:
    assert opened.read([3, 1, 3]) == [images[3], images[1], images[3]]
    assert opened.read(np.arange(SAMPLES)) == images
    with Dataset.open(local) as here:
        assert opened.keys(range(SAMPLES)) == here.keys(range(SAMPLES))
        assert opened.labels(range(SAMPLES)).tolist() == here.labels(range(SAMPLES)).tolist()
        assert opened.data_set_hash == here.data_set_hash
        assert here.storage_counts == {}
    assert opened.storage_counts["misses"] == SAMPLES


def test_what_was_read_once_is_not_asked_again(
    opened: Dataset, remote: str, tmp_path: Path, proxy: FaultyProxy, images: list[bytes]
) -> None:
    opened.read(range(SAMPLES))
    proxy.heal()
    assert opened.read(range(SAMPLES)) == images
    assert proxy.log == []
    with Dataset.open(remote, cache_folder=tmp_path / "cache") as again:
        assert again.read(range(SAMPLES)) == images
    assert {request.path.rpartition("/")[2] for request in proxy.log} == {"dataset.json"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_moment_gives_the_right_bytes(
    fault: str, remote: str, tmp_path: Path, proxy: FaultyProxy, images: list[bytes]
) -> None:
    proxy.begin(fault, requests=3)
    with Dataset.open(remote, cache_folder=tmp_path / "cache") as dataset:
        proxy.begin(fault, requests=3, ranged=True)
        assert dataset.read(range(SAMPLES)) == images
        assert dataset.storage_counts["retries"] >= 1  # a client may ask again by itself after a reset
    assert proxy.trouble.left == 0


def test_a_fault_that_stays_is_one_line_and_passes_when_it_is_healed(
    opened: Dataset, proxy: FaultyProxy, images: list[bytes]
) -> None:
    proxy.begin("reset")
    opened.prefetch([0, 1])
    wait_for_prefetching(opened)
    with pytest.raises(
        StorageError, match=r"^s3://pictures/dataset/train-\d+.tar: no good answer in 4 tries"
    ):
        opened.read([0, 1])
    proxy.heal()
    assert opened.read([0, 1]) == images[:2]


def test_prefetching_fetches_exactly_what_is_asked_neighbours_at_once(
    opened: Dataset, proxy: FaultyProxy, images: list[bytes]
) -> None:
    rows = opened.manifest
    ids = [0, 1, 5]
    assert rows["shard"][[0, 1, 5]].tolist() == [rows["shard"][0], rows["shard"][0], rows["shard"][5]]
    opened.prefetch(ids)
    wait_for_prefetching(opened)
    expected = []
    for run in runs([Range(*(int(rows[i][name]) for name in ("shard", "offset", "size"))) for i in ids]):
        expected.append((run[0].offset, run[-1].offset + run[-1].size))
    asked = [request.span for request in proxy.log if request.path.endswith(".tar")]
    assert sorted((begin, end + 1) for begin, end in filter(None, asked)) == sorted(expected)
    assert len(expected) == 2
    proxy.heal()
    assert opened.read(ids) == [images[i] for i in ids]
    assert proxy.log == []
    assert (opened.storage_counts["hits"], opened.storage_counts["misses"]) == (3, 0)


def test_neighbours_are_joined_across_headers_only() -> None:
    ranges = [Range(0, 512, 100), Range(0, 2048, 100), Range(0, 50_000, 10), Range(1, 0, 5), Range(0, 60, 10)]
    assert runs(ranges) == [
        [Range(0, 60, 10), Range(0, 512, 100), Range(0, 2048, 100)],
        [Range(0, 50_000, 10)],
        [Range(1, 0, 5)],
    ]


def test_a_damaged_range_of_the_cache_is_fetched_again(
    opened: Dataset, tmp_path: Path, images: list[bytes]
) -> None:
    opened.read(range(SAMPLES))
    for number, path in enumerate(sorted((tmp_path / "cache" / "ranges").rglob("*/*"))):
        path.write_bytes(b"" if number % 2 else b"x" * path.stat().st_size)
    assert opened.read(range(SAMPLES)) == images
    fetched = opened.storage_counts["requests"]
    assert opened.read(range(SAMPLES)) == images
    assert opened.storage_counts["requests"] == fetched


def test_a_damaged_or_cut_shard_of_the_store_is_an_error_that_names_it(
    local: Path, tmp_path: Path, proxy: FaultyProxy
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in local.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with Dataset.open(local) as dataset:
        row = dataset.manifest[0]
        name = dataset.info.shards[int(row["shard"])].name
    data = bytearray((copy / name).read_bytes())
    data[int(row["offset"]) + 50] ^= 1
    (copy / name).write_bytes(data)
    url = upload(proxy.upstream_port, copy, "flipped")
    with (
        Dataset.open(url, cache_folder=tmp_path / "cache") as dataset,
        pytest.raises(ShardError, match=rf"s3://pictures/flipped/{name}: sample '.*' at byte .* has hash"),
    ):
        dataset.read([0])
    (copy / name).write_bytes(data[: int(row["offset"]) + 60])
    url = upload(proxy.upstream_port, copy, "cut")
    with (
        Dataset.open(url, cache_folder=tmp_path / "cache2") as dataset,
        pytest.raises(ShardError, match=rf"cut/{name}: \d+ bytes, dataset.json says"),
    ):
        dataset.read([0])


def test_a_manifest_that_is_not_the_stated_one_is_refused(local: Path, tmp_path: Path, web: Web) -> None:
    for path in local.iterdir():
        (web.folder / path.name).write_bytes(path.read_bytes())
    data = bytearray((web.folder / "manifest.bin").read_bytes())
    data[0] ^= 1
    (web.folder / "manifest.bin").write_bytes(data)
    with pytest.raises(ShardError, match=r"manifest\.bin: has SHA-256"):
        Dataset.open(web.url, cache_folder=tmp_path / "cache")
    with pytest.raises(FileNotFoundError, match="/absent: no data set here"):
        Dataset.open(f"{web.url}/absent", cache_folder=tmp_path / "cache")


def test_the_web_serves_a_data_set_too(local: Path, tmp_path: Path, web: Web, images: list[bytes]) -> None:
    for path in local.iterdir():
        (web.folder / path.name).write_bytes(path.read_bytes())
    with Dataset.open(web.url, cache_folder=tmp_path / "cache") as dataset:
        assert dataset.read(range(SAMPLES)) == images
    convert(web.url, tmp_path / "out")
    convert(local, tmp_path / "here")
    assert tree_hashes(tmp_path / "out") == tree_hashes(tmp_path / "here")


def test_the_bound_of_the_cache_is_kept(
    remote: str, tmp_path: Path, proxy: FaultyProxy, images: list[bytes]
) -> None:
    bound = 4 * max(map(len, images))
    with Dataset.open(remote, cache_folder=tmp_path / "cache", cache_bytes=bound) as dataset:
        for _ in range(2):
            for sample in range(SAMPLES):
                dataset.prefetch([(sample + 1) % SAMPLES])
                assert dataset.read([sample]) == [images[sample]]
                assert bytes_below(tmp_path / "cache") <= bound
        dataset.prefetch(range(SAMPLES))  # half of the cache at the most
        wait_for_prefetching(dataset)
        assert 0 < bytes_below(tmp_path / "cache") <= bound


READER = """
import hashlib, sys
from pathlib import Path
from viewmill.shards.manifest import Dataset
with Dataset.open(sys.argv[1], cache_folder=Path(sys.argv[2]), cache_bytes=int(sys.argv[3])) as dataset:
    digest = hashlib.sha256()
    for _ in range(3):
        for image in dataset.read(range(dataset.num_samples)):
            digest.update(image)
    print(digest.hexdigest())
"""


@pytest.mark.slow  # two interpreters start
def test_two_processes_share_a_cache(
    remote: str, tmp_path: Path, proxy: FaultyProxy, images: list[bytes]
) -> None:
    bound = sum(map(len, images)) // 2
    command = [sys.executable, "-c", READER, remote, str(tmp_path / "cache"), str(bound)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [reader.communicate(timeout=60)[0].strip() for reader in readers]
    assert found == [hashlib.sha256(b"".join(images) * 3).hexdigest()] * 2
    assert bytes_below(tmp_path / "cache") <= bound


def test_a_loader_makes_the_batches_of_the_local_data_set(opened: Dataset, local: Path) -> None:
    def batches(dataset: Dataset) -> list[tuple[list[int], float]]:
        with Loader(dataset, "hydes@32", 4, executor="reference", num_threads=1) as loader:
            return [(batch.ids.tolist(), float(batch.views[0].sum())) for batch in loader]

    with Dataset.open(local) as here:
        assert batches(opened) == batches(here)
    # Every batch was announced before it was read.
    assert opened.storage_counts["misses"] <= opened.storage_counts["hits"]


def test_a_cache_that_cannot_hold_anything_is_refused(
    remote: str, tmp_path: Path, proxy: FaultyProxy
) -> None:
    with pytest.raises(ValueError, match="at least 1 byte"):
        Dataset.open(remote, cache_folder=tmp_path, cache_bytes=0)
