"""CIFAR's and STL-10's binary files: pixels, labels, names, subsets, sizes that do not fit."""

from pathlib import Path

import numpy as np
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.images import decode_rgb
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.binaries import list_binaries
from viewmill.shards.sources.open import SourceOptions

from tests.shards.pictures import noise


def cifar10(folder: Path, name: str, count: int, seed: int) -> list[np.ndarray]:
    pictures = [noise(seed + number, 32, 32) for number in range(count)]
    records = [bytes([number % 3]) + one.transpose(2, 0, 1).tobytes() for number, one in enumerate(pictures)]
    (folder / name).write_bytes(b"".join(records))
    return pictures


def decoded(dataset: Path) -> dict[str, tuple[np.ndarray, int]]:
    with Dataset.open(dataset) as opened:
        ids = range(opened.num_samples)
        labels = opened.labels(ids).tolist()
        return {opened.keys([i])[0]: (decode_rgb(opened.read([i])[0]), labels[i]) for i in ids}


def test_cifar_10_comes_out_pixel_for_pixel_with_its_names(tmp_path: Path) -> None:
    pictures = cifar10(tmp_path, "data_batch_1.bin", 5, 0) + cifar10(tmp_path, "data_batch_2.bin", 4, 50)
    cifar10(tmp_path, "test_batch.bin", 2, 90)
    (tmp_path / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    report = convert(tmp_path, tmp_path.parent / "train", reading=SourceOptions(subset="train"))
    assert (report.inputs, report.samples) == (9, 9)
    found = decoded(tmp_path.parent / "train")
    for number, expected in enumerate(pictures):
        batch, place = (1, number) if number < 5 else (2, number - 5)
        pixels, label = found[f"data_batch_{batch}/{place:06d}"]
        assert np.array_equal(pixels, expected)
        assert label == place % 3
    with Dataset.open(tmp_path.parent / "train") as dataset:
        assert dataset.classes == ("airplane", "automobile", "bird")


def test_one_file_is_a_source_and_names_may_be_missing(tmp_path: Path) -> None:
    cifar10(tmp_path, "test_batch.bin", 4, 0)
    listing = list_binaries(tmp_path / "test_batch.bin")
    assert (len(listing.inputs), listing.classes) == (4, ("0", "1", "2"))


def test_cifar_100_has_two_labels_and_the_fine_one_counts(tmp_path: Path) -> None:
    one = noise(0, 32, 32)
    (tmp_path / "train.bin").write_bytes(bytes([3, 77]) + one.transpose(2, 0, 1).tobytes())
    convert(tmp_path / "train.bin", tmp_path / "out")
    ((pixels, label),) = decoded(tmp_path / "out").values()
    assert np.array_equal(pixels, one)
    assert label == 77


def test_stl_10_is_stored_columns_first_with_labels_apart(tmp_path: Path) -> None:
    pictures = [noise(number, 96, 96) for number in range(3)]
    (tmp_path / "train_X.bin").write_bytes(b"".join(one.transpose(2, 1, 0).tobytes() for one in pictures))
    (tmp_path / "train_y.bin").write_bytes(bytes([10, 1, 2]))
    (tmp_path / "unlabeled_X.bin").write_bytes(pictures[0].transpose(2, 1, 0).tobytes())
    convert(tmp_path, tmp_path.parent / "stl", reading=SourceOptions(subset="train"))
    found = decoded(tmp_path.parent / "stl")
    for number, (expected, label) in enumerate(zip(pictures, [9, 0, 1], strict=True)):
        assert np.array_equal(found[f"train_X/{number:06d}"][0], expected)
        assert found[f"train_X/{number:06d}"][1] == label
    convert(tmp_path, tmp_path.parent / "unlabeled", reading=SourceOptions(subset="unlabeled"))
    assert [label for _, label in decoded(tmp_path.parent / "unlabeled").values()] == [-1]


def test_a_folder_needs_a_subset_and_the_error_names_them(tmp_path: Path) -> None:
    cifar10(tmp_path, "test_batch.bin", 1, 0)
    with pytest.raises(ConvertError, match=r"holds test_batch\.bin; choose one of train, test, unlabeled"):
        list_binaries(tmp_path)
    with pytest.raises(ConvertError, match="nothing of 'train'"):
        list_binaries(tmp_path, "train")
    with pytest.raises(ConvertError, match=r"none of data_batch_1\.bin"):
        list_binaries(tmp_path / "absent", "train")


def test_sizes_and_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    cifar10(tmp_path, "test_batch.bin", 2, 0)
    (tmp_path / "batches.meta.txt").write_text("airplane")
    with pytest.raises(ConvertError, match=r"batches\.meta\.txt: 1 names for labels up to 1"):
        list_binaries(tmp_path / "test_batch.bin")
    (tmp_path / "test_batch.bin").write_bytes(bytes(3074))
    with pytest.raises(ConvertError, match="3074 bytes are no whole number of records of 3073"):
        list_binaries(tmp_path / "test_batch.bin")
    (tmp_path / "test_X.bin").write_bytes(bytes(2 * 27648))
    (tmp_path / "test_y.bin").write_bytes(bytes([1]))
    with pytest.raises(ConvertError, match=r"test_y\.bin: 1 labels for 2 pictures"):
        list_binaries(tmp_path / "test_X.bin")
