"""Every image that is here, converted, verified, and read back by every reader of the container format.

What each source holds is read by tarfile and pyarrow alone. `CONTAINERS` says which formats and readers there
are. Run with `-s` it prints how long each step took.
"""

import csv
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from viewmill.shards.images import decode_rgb
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.verify import verify

from tests.shards.pictures import SHARED_DATA
from tests.shards.readers import CONTAINERS, Picture, Sample, as_ffcv_shows, by_manifest

FORMATS = sorted(CONTAINERS)
# Of 255, the mean over a square of 32 pixels. FFCV has libjpeg use the fast DCT, which cuts where the exact
# one rounds, so that luma and chroma come out up to one level low. All three one low make red 2.4 and blue
# 2.8 lower and green 0.1 higher: whole numbers are 3, 3 and 1 apart at most, 7/3 in the mean. Nothing else
# differs: libjpeg itself gives FFCV's very pixels with the fast DCT, and Pillow's with the exact one. Of the
# 60,000 CIFAR images the largest mean is 1.86, and 14 are over 1.5; pictures of one colour reach 7/3.
MEAN_TOLERANCE = 2.4


class Original(NamedTuple):
    """An image of a source: its bytes, and its label in the data set."""

    data: bytes
    label: int


@dataclass(frozen=True)
class Collection:
    """Files of the shared data that are converted together; classes come from a column of a table, if any."""

    files: tuple[str, ...]
    table: str = ""
    column: str = ""
    limit: int | None = None


COLLECTIONS = {
    "cifar": Collection(("cifar10_train.parquet", "cifar10_test.parquet")),
    "imagenet": Collection(("imagenet_sample.tar",), "imagenet_sample.tsv", "index"),
    "imagenette": Collection(("imagenette_train.tar", "imagenette_val.tar"), "imagenette.tsv", "wnid"),
    "camvid": Collection(("camvid_seg.tar",)),
    "odd": Collection(("odd_images.tar",)),
}
SHARES = {
    "some of cifar": Collection(("cifar10_test.parquet",), limit=500),
    "some of imagenet": Collection(("imagenet_sample.tar",), "imagenet_sample.tsv", "index", limit=20),
}


def classes_of(collection: Collection) -> dict[str, str]:
    """Class by file name, of a table beside the data; empty where there is none."""
    if not collection.table:
        return {}
    with (SHARED_DATA / collection.table).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return {row["path"].rpartition("/")[2]: row[collection.column] for row in rows}


def originals(collection: Collection) -> dict[str, Original]:
    """All images of the collection by their source, as the manifest names it."""
    classes = classes_of(collection)
    # Classes that are numbers keep them; others are numbered in their order.
    numbers = {
        name: int(name) if name.isdigit() else n for n, name in enumerate(sorted(set(classes.values())))
    }
    found: dict[str, Original] = {}
    for file in collection.files:
        if file.endswith(".parquet"):
            table = pq.read_table(SHARED_DATA / file, columns=["image", "label"])
            pairs = zip(table.column("image").to_pylist(), table.column("label").to_pylist(), strict=True)
            found |= {f"{file}/{row:08d}": Original(*pair) for row, pair in enumerate(pairs)}
        else:
            for name, data in members(SHARED_DATA / file):
                label = numbers[classes[name.rpartition("/")[2]]] if classes else -1
                found[f"{file}/{name}"] = Original(data, label)
    return found


def members(tar: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(tar) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name, file.read()


def linked(collection: Collection, folder: Path) -> Path:
    """A folder with links to the collection's files, or the file where it is one."""
    if len(collection.files) == 1:
        return SHARED_DATA / collection.files[0]
    folder.mkdir()
    for file in collection.files:
        (folder / file).symlink_to(SHARED_DATA / file)
    return folder


def labels_file(collection: Collection, path: Path) -> str | None:
    classes = classes_of(collection)
    path.write_text("".join(f"{name}\t{label}\n" for name, label in classes.items()), encoding="utf-8")
    return str(path) if classes else None


def drill(container: str, collection: Collection, folder: Path) -> None:
    """Converts and verifies the collection, compares the manifest with the source and each reader with it."""
    missing = [file for file in collection.files if not (SHARED_DATA / file).is_file()]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not here")
    watch, dataset = Watch(), folder / "dataset"
    reading = SourceOptions(labels=labels_file(collection, folder / "labels.tsv"))
    source = linked(collection, folder / "source")
    CONTAINERS[container].write(source, dataset, collection.limit, reading)
    watch.lap("convert")
    assert verify(dataset) == []
    watch.lap("verify")
    samples = list(by_manifest(dataset))
    watch.lap("Dataset.read")
    compare_with_source(dataset, samples, originals(collection), collection.limit)
    watch.lap("compare with the source")
    for name, reader in CONTAINERS[container].readers.items():
        compare_reader(name, reader(dataset), samples)
        watch.lap(name)
    for name, viewer in CONTAINERS[container].viewers.items():
        largest = compare_viewer(name, viewer(dataset), samples)
        watch.lap(f"{name} (off by {largest:.2f} of 255 at most)")
    print(f"\n{container}, {len(samples)} samples: {watch}")


def compare_with_source(
    dataset: Path, samples: list[Sample], expected: dict[str, Original], limit: int | None
) -> None:
    """Every image is a sample or quarantined, with the source's bytes, or its pixels where re-encoded."""
    columns = ["key", "source", "label", "transcoded"]
    rows = pq.read_table(dataset / "manifest.parquet", columns=columns).to_pylist()
    refused = pq.read_table(dataset / "quarantine.parquet").column("source").to_pylist()
    sources = [row["source"] for row in rows] + refused
    assert len(set(sources)) == len(sources)
    assert set(sources) <= set(expected)
    assert len(sources) == (limit or len(expected))
    for row, sample in zip(rows, samples, strict=True):
        original = expected[row["source"]]
        assert (sample.key, sample.label) == (row["key"], original.label)
        same = sample.data == original.data
        if row["transcoded"]:
            same = np.array_equal(decode_rgb(sample.data), decode_rgb(original.data))
        assert same, row["source"]


def compare_reader(name: str, given: Iterable[Sample], samples: list[Sample]) -> None:
    """The reader gives these samples in their order, neither more nor less."""
    for number, (found, expected) in enumerate(zip_longest(given, samples)):
        # Not one comparison of tuples: a difference would print two images.
        assert found is not None, f"{name} ends after {number} samples"
        assert expected is not None, f"{name} goes on after {number} samples"
        assert (found.key, found.label) == (expected.key, expected.label), f"{name}, sample {number}"
        assert found.data == expected.data, f"{name}, sample {number}, '{expected.key}': other bytes"


def compare_viewer(name: str, given: Iterable[Picture], samples: list[Sample]) -> float:
    """The viewer shows these samples in their order: raw pixels exactly, JPEGs as another decoder does.

    Returns the largest mean difference of a sample.
    """
    largest = 0.0
    for number, (found, expected) in enumerate(zip_longest(given, samples)):
        assert found is not None, f"{name} ends after {number} samples"
        assert expected is not None, f"{name} goes on after {number} samples"
        assert found.label == expected.label, f"{name}, sample {number}"
        shown = as_ffcv_shows(decode_rgb(expected.data)).astype(int)
        difference = float(np.abs(shown - found.pixels).mean())
        limit = 0.0 if expected.data.startswith(b"P6") else MEAN_TOLERANCE
        assert difference <= limit, f"{name}, sample {number}, '{expected.key}': off by {difference:.2f}"
        largest = max(largest, difference)
    return largest


class Watch:
    """Seconds of each step, by the clock."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name], self._began = now - self._began, now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._laps.items())


THREE = [Sample("a", 0, b"x"), Sample("b", -1, b"y"), Sample("c", 1, b"z")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (THREE[:2], "ends after 2 samples"),
        ([*THREE, THREE[0]], "goes on after 3 samples"),
        ([THREE[1], THREE[0], THREE[2]], "sample 0"),
        ([THREE[0], THREE[1]._replace(label=0), THREE[2]], "sample 1"),
        ([*THREE[:2], THREE[2]._replace(data=b"w")], "'c': other bytes"),
    ],
)
def test_a_reader_that_loses_repeats_or_changes_a_sample_is_noticed(
    given: list[Sample], message: str
) -> None:
    compare_reader("reader", THREE, THREE)
    with pytest.raises(AssertionError, match=message):
        compare_reader("reader", given, THREE)


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("container", FORMATS)
def test_every_reader_reads_some_images_back(container: str, share: str, tmp_path: Path) -> None:
    drill(container, SHARES[share], tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("collection", COLLECTIONS)
@pytest.mark.parametrize("container", FORMATS)
def test_every_reader_reads_all_images_back(container: str, collection: str, tmp_path: Path) -> None:
    drill(container, COLLECTIONS[collection], tmp_path)
