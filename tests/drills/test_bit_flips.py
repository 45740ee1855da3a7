"""One flipped bit in any file of a data set: `verify` finds it, and no wrong image is ever read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset
from viewmill.shards.survey import survey
from viewmill.shards.verify import verify

from tests.shards.pictures import write_tree

FILES = (
    "train-000000.tar", "train-000001.tar", "train-000000.idx", "train-000001.idx",
    "manifest.bin", "manifest.parquet", "quarantine.parquet", "dataset.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    convert(write_tree(folder / "source"), folder / "dataset", shard_bytes=12_000)
    assert set(FILES) <= {path.name for path in (folder / "dataset").iterdir()}
    return folder / "dataset"


@pytest.fixture(scope="module")
def images(dataset: Path) -> list[bytes]:
    with Dataset.open(dataset) as opened:
        return opened.read(range(opened.num_samples))


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """The file with one bit flipped; as it was, afterwards."""
    data = path.read_bytes()
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(damaged)
    try:
        yield
    finally:
        path.write_bytes(data)


def found_by_verify(dataset: Path, name: str) -> bool:
    """Whether `verify` names the file, or refuses dataset.json as a whole."""
    try:
        return name in {fault.file for fault in verify(dataset)}
    except ShardError as error:
        return name == "dataset.json" and name in str(error)


def read_right_or_refused(dataset: Path, images: list[bytes]) -> bool:
    """Whether opening and reading every sample by itself gives the bytes that were written, or an error."""
    try:
        opened = Dataset.open(dataset)
    except ShardError:
        return True
    with opened:
        return opened.num_samples == len(images) and all(
            image_right_or_refused(opened, sample, image) for sample, image in enumerate(images)
        )


def image_right_or_refused(opened: Dataset, sample: int, image: bytes) -> bool:
    try:
        return opened.read([sample]) == [image]
    except ShardError:
        return True


def only_shard_errors(dataset: Path) -> None:
    """What else reads the manifest says so, by a ShardError, where it cannot."""
    try:
        with Dataset.open(dataset) as opened:
            opened.keys(range(opened.num_samples))
            opened.labels(range(opened.num_samples))
            opened.sizes(range(opened.num_samples))
            survey(opened)
    except ShardError:
        pass


def drill(dataset: Path, images: list[bytes], seed: int, count: int) -> None:
    missed = []
    for number in range(count):
        name = FILES[number % len(FILES)]
        rng = np.random.default_rng((13, seed, number))
        bit = int(rng.integers(8 * (dataset / name).stat().st_size))
        with flipped(dataset / name, bit):
            if not found_by_verify(dataset, name):
                missed.append(("verify", name, bit))
            if not read_right_or_refused(dataset, images):
                missed.append(("read", name, bit))
            only_shard_errors(dataset)
    assert missed == []
    assert verify(dataset) == []


@pytest.mark.slow
def test_a_flipped_bit_is_found_and_never_read(dataset: Path, images: list[bytes]) -> None:
    drill(dataset, images, seed=0, count=200)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_many_flipped_bits_are_found_and_never_read(dataset: Path, images: list[bytes]) -> None:
    drill(dataset, images, seed=1, count=2000)


@pytest.mark.slow
def test_every_bit_of_the_description_is_guarded(dataset: Path) -> None:
    """A flip in dataset.json is refused, or `verify` finds it and nothing that is read of it changes."""
    path, missed = dataset / "dataset.json", []
    whole = read_info(dataset)
    for bit in range(0, 8 * path.stat().st_size, 7):
        with flipped(path, bit):
            try:
                same = read_info(dataset) == whole
            except ShardError:
                continue
            if not same or "dataset.json" not in {fault.file for fault in verify(dataset)}:
                missed.append(bit)
    assert missed == []
