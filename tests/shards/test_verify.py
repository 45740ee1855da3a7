"""Verification names every fault, and repairs what can be rebuilt."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ShardError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.survey import survey
from viewmill.shards.verify import verify

from tests.shards.pictures import encoded, picture, tree_hashes, write_tree
from tests.shards.restating import describe_again


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    convert(write_tree(folder / "source"), folder / "dataset", shard_bytes=12_000)
    return folder / "dataset"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage."""
    return shutil.copytree(whole, tmp_path / "dataset")


def test_a_sound_data_set_has_no_fault(whole: Path) -> None:
    told: list[tuple[int, int]] = []
    assert verify(whole, progress=lambda done, total: told.append((done, total))) == []
    total = sum(path.stat().st_size for path in whole.glob("*.tar"))
    assert (len(told), told[-1]) == (4, (total, total))


def test_a_flipped_bit_names_the_shard_and_the_sample(copy: Path) -> None:
    with Dataset.open(copy) as dataset:
        row, key = dataset.manifest[7], dataset.keys([7])[0]
        name = dataset.info.shards[row["shard"]].name
    data = bytearray((copy / name).read_bytes())
    data[int(row["offset"])] ^= 1
    (copy / name).write_bytes(data)
    faults = verify(copy, repair=True)
    assert [fault.file for fault in faults] == [name, name]
    assert f"sample '{key}' at byte {row['offset']} has hash" in str(faults[1])
    assert not any(fault.repaired for fault in faults)


@pytest.mark.parametrize("name", ["train-000002.tar", "train-000002.idx", "manifest.bin", "manifest.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_any_damaged_file_is_named(copy: Path, name: str, damage: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes({"missing": b"", "cut": data[:-3], "changed": data[:-1] + b"\x07"}[damage])
    if damage == "missing":
        (copy / name).unlink()
    assert name in {fault.file for fault in verify(copy)}


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
@pytest.mark.parametrize("name", ["train-000002.idx", "manifest.bin"])
def test_what_can_be_rebuilt_is_rebuilt_to_the_byte(whole: Path, copy: Path, name: str, damage: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes({"missing": b"", "cut": data[:-3], "changed": b"\x07" + data[1:]}[damage])
    if damage == "missing":
        (copy / name).unlink()
    faults = verify(copy, repair=True)
    assert [(fault.file, fault.repaired) for fault in faults] == [(name, True)]
    assert tree_hashes(copy) == tree_hashes(whole)
    assert verify(copy) == []


def test_a_swapped_pair_of_shards_is_named(copy: Path) -> None:
    first, second = copy / "train-000000.tar", copy / "train-000001.tar"
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    assert {"train-000000.tar", "train-000001.tar"} <= {fault.file for fault in verify(copy)}


def test_a_forged_label_does_not_match_the_data_set_hash(copy: Path) -> None:
    table = pq.read_table(copy / "manifest.parquet")
    labels = np.roll(table.column("label").to_numpy(), 1)
    place = table.schema.get_field_index("label")
    pq.write_table(table.set_column(place, "label", pa.array(labels, pa.int32())), copy / "manifest.parquet")
    describe_again(copy, "manifest.parquet")
    assert [fault.message.partition(";")[0] for fault in verify(copy)] == [
        "does not give the data set hash that dataset.json states"
    ]


def test_a_forged_member_does_not_match_the_manifest(copy: Path) -> None:
    name = "train-000001.tar"
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1024] + data[:512] + bytes(1024))  # one more header, of size as before
    describe_again(copy, name)
    assert [fault.file for fault in verify(copy)] == [name]


def test_a_changed_class_name_is_refused_for_no_other_file_vouches_for_it(copy: Path) -> None:
    text = (copy / "dataset.json").read_text()
    (copy / "dataset.json").write_text(text.replace('"class_1"', '"klass_1"'))
    with pytest.raises(ShardError, match=r"dataset\.json: was changed: its content has SHA-256"):
        verify(copy)
    with pytest.raises(ShardError, match="take it from a copy or convert again"):
        Dataset.open(copy)


@pytest.mark.parametrize(("old", "new"), [('"sha256": "', '"sha257": "'), ("\n", " \n")])
def test_a_description_that_reads_the_same_but_was_not_written_so_is_named(
    copy: Path, old: str, new: str
) -> None:
    head, _, tail = (copy / "dataset.json").read_text().rpartition(old)
    (copy / "dataset.json").write_text(head + new + tail)
    assert [str(fault) for fault in verify(copy)] == [
        "dataset.json: is not as it was written; take it from a copy or convert again"
    ]


def test_a_shard_that_is_not_listed_is_named(copy: Path) -> None:
    shutil.copy(copy / "train-000000.tar", copy / "train-000099.tar")
    assert [str(fault) for fault in verify(copy)] == [
        "train-000099.tar: is no part of this data set; move it away"
    ]


def test_no_data_set_and_a_broken_description_are_errors(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no data set here"):
        verify(tmp_path / "absent")
    (copy / "dataset.json").write_text("{")
    with pytest.raises(ShardError, match="not JSON"):
        verify(copy)


def test_decoding_finds_what_a_check_of_headers_trusted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(encoded(picture(number, 80, 80), "JPEG"))
    whole = (tmp_path / "in" / "1.jpg").read_bytes()
    (tmp_path / "in" / "1.jpg").write_bytes(whole[: 2 * len(whole) // 3])
    convert(tmp_path / "in", tmp_path / "dataset", check="header")
    assert verify(tmp_path / "dataset") == []
    (fault,) = verify(tmp_path / "dataset", decode=True)
    assert fault.file == "train-000000.tar"
    assert "sample '1' at byte" in fault.message
    assert "JPEG does not decode" in fault.message


def test_a_survey_counts_what_the_folder_holds(whole: Path) -> None:
    with Dataset.open(whole) as dataset:
        found = survey(dataset)
        sizes = dataset.sizes(range(13))
        image_bytes = sum(map(len, dataset.read(range(13))))
    assert found.per_class == {"class_0": 5, "class_1": 4, "class_2": 4}
    assert found.formats == {"jpg": 12, "png": 1}
    assert found.reasons == {"JPEG header cannot be read": 1, "no image": 1}
    assert (found.num_samples, found.num_shards, found.transcoded, found.quarantined) == (13, 4, 1, 2)
    assert (found.width.least, found.width.largest) == (16, 50)
    assert found.height.mean == pytest.approx(sizes[:, 1].mean())
    assert found.pixels.median == np.sort(sizes.prod(axis=1))[6]
    assert found.image_bytes == image_bytes


def test_a_survey_counts_images_without_a_class(tmp_path: Path) -> None:
    source = write_tree(tmp_path / "source", num_classes=2)
    convert(source, tmp_path / "dataset", reading=SourceOptions(class_level=0))
    with Dataset.open(tmp_path / "dataset") as dataset:
        assert survey(dataset).per_class == {None: 9}
