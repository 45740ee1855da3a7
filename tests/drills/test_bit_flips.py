"""One flipped bit in any file of a data set: `verify` finds it, and no wrong image is ever read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.errors import ShardError
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset
from viewmill.shards.survey import survey
from viewmill.shards.verify import verify

from tests.shards.pictures import write_tree

SHARDS = {
    "webdataset": ("train-000000.tar", "train-000001.tar", "train-000000.idx", "train-000001.idx"),
    "ffcv": ("train-000000.beton", "train-000001.beton"),
}
OTHERS = ("manifest.bin", "manifest.parquet", "quarantine.parquet", "dataset.json")


@pytest.fixture(scope="module", params=SHARDS)
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flips")
    options = Options(shard_bytes=12_000 if request.param == "webdataset" else 20_000, format=request.param)
    convert_with(write_tree(folder / "source"), folder / "dataset", options)
    return folder / "dataset"


def files_of(dataset: Path) -> tuple[str, ...]:
    names = (*SHARDS[read_info(dataset).kind], *OTHERS)
    assert set(names) <= {path.name for path in dataset.iterdir()}
    return names


@pytest.fixture(scope="module")
def images(dataset: Path) -> list[bytes]:
    with Dataset.open(dataset) as opened:
        return opened.read(range(opened.num_samples))


def flip(path: Path, bit: int) -> None:
    """In place: a beton is mostly padding, which would take long to write again."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([byte]))


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """The file with one bit flipped; as it was, afterwards."""
    flip(path, bit)
    try:
        yield
    finally:
        flip(path, bit)


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


def chosen_byte(path: Path, rng: np.random.Generator) -> int:
    """Of a beton, nine times of ten one that is not zero: nearly all of a small one is padding."""
    if path.suffix == ".beton" and rng.random() < 0.9:
        return int(rng.choice(np.flatnonzero(np.fromfile(path, np.uint8))))
    return int(rng.integers(path.stat().st_size))


def drill(dataset: Path, images: list[bytes], seed: int, count: int) -> None:
    missed = []
    names = files_of(dataset)
    for number in range(count):
        name = names[number % len(names)]
        rng = np.random.default_rng((13, seed, number))
        bit = 8 * chosen_byte(dataset / name, rng) + int(rng.integers(8))
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
    drill(dataset, images, seed=0, count=200 if read_info(dataset).kind == "webdataset" else 90)


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
