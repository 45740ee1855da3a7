"""Repairs: to the byte wherever that is promised, named losses elsewhere, and never from a changed source."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from viewmill.shards.checks.files import ASIDE
from viewmill.shards.conversion.label_map import Pairs
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.splits import Split, parse_splits
from viewmill.shards.convert import convert_splits, convert_with
from viewmill.shards.errors import ShardError
from viewmill.shards.in_place import convert_in_place
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.verify import Source, verify

from tests.shards.foreign_tars import write_foreign_tars
from tests.shards.pictures import encoded, picture, tree_hashes, write_tree

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(shard_bytes=12_000)
Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve JPEGs, a bitmap, and two inputs that get quarantined."""
    return write_tree(tmp_path_factory.mktemp("repair") / "source")


@pytest.fixture(scope="module")
def whole(source: Path) -> Path:
    convert_with(source, source.parent / "dataset", OPTIONS)
    return source.parent / "dataset"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A data set that a test may damage."""
    return shutil.copytree(whole, tmp_path / "dataset")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 8
    path.write_bytes(data)


DAMAGES: list[Damage] = [Path.unlink, cut, flip]


def told(faults: list) -> set[tuple[str, bool]]:
    return {(fault.file, fault.repaired) for fault in faults}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["train-000000.tar", "train-000003.tar", "manifest.parquet", "quarantine.parquet", "manifest.bin"]
)
def test_any_file_is_made_again_from_the_source_to_the_byte(
    source: Path, whole: Path, copy: Path, name: str, damage: Damage
) -> None:
    damage(copy / name)
    faults = verify(copy, repair=True, source=Source(source))
    assert told(faults) == {(name, True)}
    assert tree_hashes(copy) == tree_hashes(whole)
    assert verify(copy) == []


def test_all_at_once_is_made_again_from_the_source(source: Path, whole: Path, copy: Path) -> None:
    for path in copy.iterdir():
        if path.name != "dataset.json":
            path.unlink()
    assert all(fault.repaired for fault in verify(copy, repair=True, source=Source(source)))
    assert tree_hashes(copy) == tree_hashes(whole)


def test_a_shard_is_found_by_the_plans_number_where_others_before_it_have_no_sample(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(8):
        text = b"no image" * 600
        data = encoded(picture(number, 300, 300), "PNG") if number in (2, 3, 6) else text
        (tmp_path / "in" / f"{number}.png").write_bytes(data)
    options = Options(shuffle_seed=None, shard_bytes=7000, quarantine_bytes=True)
    convert_with(tmp_path / "in", tmp_path / "ds", options)
    expected = tree_hashes(tmp_path / "ds")
    shards = [name for name in expected if name.startswith("train") and name.endswith(".tar")]
    refused = [name for name in expected if name.startswith("quarantine-")]
    assert len(shards) >= 2
    assert refused[0] == "quarantine-000000.tar"  # the plan's first shard has no file of samples
    for name in (shards[-1], refused[-1]):
        (tmp_path / "ds" / name).unlink()
        assert told(verify(tmp_path / "ds", repair=True, source=Source(tmp_path / "in"))) == {(name, True)}
        assert tree_hashes(tmp_path / "ds") == expected


def test_a_source_that_changed_gives_nothing(source: Path, copy: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(source, tmp_path / "source")
    for path in changed.rglob("*.jpg"):
        flip(path) if path.stat().st_size > 500 else None
    before = tree_hashes(copy)
    (copy / "train-000001.tar").unlink()
    (fault,) = verify(copy, repair=True, source=Source(changed))
    assert not fault.repaired
    assert "not repaired: the source does not give the SHA-256 that dataset.json states" in fault.message
    del before["train-000001.tar"]
    assert tree_hashes(copy) == before


def test_another_source_is_named_before_it_is_read(copy: Path, tmp_path: Path) -> None:
    other = write_tree(tmp_path / "other", per_class=2)
    (copy / "train-000001.tar").unlink()
    (fault,) = verify(copy, repair=True, source=Source(other))
    assert "has 9 inputs now, dataset.json states 15: it is another source or has changed" in fault.message
    (fault,) = verify(copy, repair=True, source=Source(tmp_path / "absent"))
    assert "absent: no such folder" in fault.message


def test_options_and_the_paths_that_are_not_recorded(source: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,label\nclass_0/0.jpg,a\nclass_1/1.jpg,b\nclass_2/2.jpg,a\n")
    label_map: Pairs = (("b", "newt"), ("a", "ant"))
    options = Options(5, "header", 3000, resize="max=30", quality=80, label_map=label_map)
    reading = SourceOptions(root=str(source), label_column="label")
    convert_with(tmp_path / "list.csv", tmp_path / "ds", options, reading=reading)
    expected = tree_hashes(tmp_path / "ds")
    (tmp_path / "ds" / "train-000000.tar").unlink()
    (fault,) = verify(tmp_path / "ds", repair=True, source=Source(tmp_path / "list.csv"))
    assert not fault.repaired
    faults = verify(tmp_path / "ds", repair=True, source=Source(tmp_path / "list.csv", root=str(source)))
    assert told(faults) == {("train-000000.tar", True)}
    assert tree_hashes(tmp_path / "ds") == expected


def test_a_file_of_labels_is_to_be_given_again(source: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    names = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    labels.write_text("".join(f"{name}\t{'abc'[number % 3]}\n" for number, name in enumerate(names)))
    convert_with(source, tmp_path / "ds", OPTIONS, reading=SourceOptions(labels=str(labels)))
    expected = tree_hashes(tmp_path / "ds")
    (tmp_path / "ds" / "manifest.parquet").unlink()
    (tmp_path / "ds" / "train-000002.tar").unlink()
    faults = verify(tmp_path / "ds", repair=True, source=Source(source))
    assert told(faults) == {("manifest.parquet", False), ("train-000002.tar", False)}
    assert any("which is to be given here too" in fault.message for fault in faults)
    assert all(
        f.repaired for f in verify(tmp_path / "ds", repair=True, source=Source(source, None, str(labels)))
    )
    assert tree_hashes(tmp_path / "ds") == expected


def test_a_split_is_made_again_from_the_whole_source(source: Path, tmp_path: Path) -> None:
    splits: list[Split] = parse_splits("train=0.7,val=0.3")
    convert_splits(source, tmp_path / "ds", OPTIONS, splits)
    expected = tree_hashes(tmp_path / "ds" / "val")
    flip(tmp_path / "ds" / "val" / "train-000000.tar")
    faults = verify(tmp_path / "ds" / "val", repair=True, source=Source(source))
    assert all(fault.repaired for fault in faults)
    assert tree_hashes(tmp_path / "ds" / "val") == expected


def folder_of_jpegs(folder: Path, ending: str) -> Path:
    (folder / "a b").mkdir(parents=True)
    for number in range(5):
        (folder / "a b" / f"{number}.{ending}").write_bytes(encoded(picture(number, 30, 20), "JPEG"))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("ending", ["jpg", "JPEG"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_manifest_of_jpegs_is_rebuilt_from_the_shards_alone_to_the_byte(
    tmp_path: Path, ending: str, damage: Damage
) -> None:
    convert_with(folder_of_jpegs(tmp_path / "in", ending), tmp_path / "ds", Options(shard_bytes=3000))
    expected = tree_hashes(tmp_path / "ds")
    damage(tmp_path / "ds" / "manifest.parquet")
    (tmp_path / "ds" / "manifest.bin").unlink()
    (tmp_path / "ds" / "train-000001.idx").unlink()
    names = {("manifest.parquet", True), ("manifest.bin", True), ("train-000001.idx", True)}
    assert told(verify(tmp_path / "ds", repair=True)) == names
    assert tree_hashes(tmp_path / "ds") == expected


def test_a_manifest_that_cannot_be_rebuilt_to_the_byte_says_what_was_lost(whole: Path, copy: Path) -> None:
    (copy / "manifest.parquet").unlink()  # the bitmap's ending is in no shard
    faults = verify(copy, repair=True)
    assert [fault.repaired for fault in faults] == [True, True]
    assert "the endings in 'source' and the marks 'transcoded' are guesses now" in faults[1].message
    assert verify(copy) == []
    assert read_info(copy).file("manifest.parquet") != read_info(whole).file("manifest.parquet")
    old, new = (pq.read_table(folder / "manifest.parquet").to_pylist() for folder in (whole, copy))
    lost = [(was["source"], now["source"]) for was, now in zip(old, new, strict=True) if was != now]
    assert lost == [("class_0/extra.bmp", "class_0/extra.png")]
    with Dataset.open(whole) as before, Dataset.open(copy) as after:
        assert before.keys(range(13)) == after.keys(range(13))
        assert before.read(range(13)) == after.read(range(13))
        assert before.data_set_hash == after.data_set_hash


def test_nothing_is_rebuilt_from_a_damaged_shard(copy: Path) -> None:
    (copy / "manifest.parquet").unlink()
    (copy / "manifest.bin").unlink()
    flip(copy / "train-000002.tar")
    faults = verify(copy, repair=True)
    assert told(faults) == {("manifest.parquet", False), ("manifest.bin", False), ("train-000002.tar", False)}
    assert "not repaired: 'train-000002.tar' is not sound: repair that first" in str(faults)
    assert not (copy / "manifest.parquet").exists()


def test_a_lost_quarantine_alone_says_that_only_the_source_has_it(copy: Path) -> None:
    (copy / "quarantine.parquet").unlink()
    (fault,) = verify(copy, repair=True)
    assert not fault.repaired
    assert "make it again from its source: verify --repair --source SOURCE" in fault.message


def test_options_that_no_conversion_has_are_refused(source: Path, copy: Path) -> None:
    for options in ({"shuffle_seed": "x"}, {"label_map": [["a"]]}, {"split": 3}, {"novel": 1}, {"kind": "x"}):
        tree = json.loads((copy / "dataset.json").read_text())
        tree["options"] |= options
        del tree["sha256"]
        (copy / "dataset.json").write_text(json.dumps(tree))
        (copy / "dataset.json").write_text(read_info(copy).to_json())
        (copy / "train-000001.tar").unlink(missing_ok=True)
        (fault,) = verify(copy, repair=True, source=Source(source))
        assert "not repaired: " in fault.message
        assert "dataset.json" in fault.message


@pytest.mark.parametrize("name", ["manifest.parquet", "quarantine.parquet", "b.1.idx", "manifest.bin"])
@pytest.mark.parametrize("damage", DAMAGES[::2])
def test_tars_in_place_are_a_source_of_their_own(tmp_path: Path, name: str, damage: Damage) -> None:
    tars = write_foreign_tars(tmp_path / "tars")
    convert_in_place(tars)
    expected = tree_hashes(tars)
    damage(tars / name)
    assert told(verify(tars, repair=True)) == {(name, True)}
    assert tree_hashes(tars) == expected


def test_a_damaged_tar_in_place_is_left_alone_and_so_is_its_manifest(tmp_path: Path) -> None:
    tars = write_foreign_tars(tmp_path / "tars")
    convert_in_place(tars)
    (tars / "manifest.parquet").unlink()
    flip(tars / "c.tar")
    expected = tree_hashes(tars)
    faults = verify(tars, repair=True)
    assert ("c.tar", False) in told(faults)
    assert "the tar itself is the data: take it from a copy; not repaired: --source with" in str(faults)
    assert "'c.tar' is not sound: repair that first" in str(faults)
    assert tree_hashes(tars) == expected


def test_links_follow_tars_that_were_moved_and_are_the_same(tmp_path: Path) -> None:
    tars = write_foreign_tars(tmp_path / "tars")
    convert_in_place(tars, tmp_path / "ds")
    moved = tars.rename(tmp_path / "moved")
    faults = verify(tmp_path / "ds")
    assert {"a-0.tar", "b.1.tar", "c.tar"} <= {fault.file for fault in faults}
    flip(moved / "b.1.tar")
    faults = verify(tmp_path / "ds", repair=True, source=Source(moved))
    assert {fault.file for fault in faults if not fault.repaired} == {"b.1.tar"}
    flip(moved / "b.1.tar")  # back
    assert all(fault.repaired for fault in verify(tmp_path / "ds", repair=True, source=Source(moved)))
    assert (tmp_path / "ds" / "c.tar").readlink() == moved / "c.tar"


def test_a_rest_of_a_killed_repair_is_named_and_removed(whole: Path, copy: Path) -> None:
    (copy / ASIDE).mkdir()
    (copy / ASIDE / "000000.tar").write_bytes(b"half")
    (copy / "manifest.bin.tmp-0123456789abcdef").write_bytes(b"half")
    names = [fault.file for fault in verify(copy)]
    assert names == [ASIDE, "manifest.bin.tmp-0123456789abcdef"]
    assert all(fault.repaired for fault in verify(copy, repair=True))
    assert tree_hashes(copy) == tree_hashes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("from_source", [True, False])
def test_a_repair_killed_before_any_change_is_finished_by_the_next(
    fast_folder: Path, from_source: bool
) -> None:
    source = folder_of_jpegs(fast_folder / "in", "JPG")
    (source / "x.bmp").write_bytes(encoded(picture(7), "BMP"))
    convert_with(source, fast_folder / "ds", Options(shard_bytes=5000))
    command = [sys.executable, "-m", "tests.shards.kill_points_repair", str(fast_folder / "ds")]
    command += [str(source)] if from_source else []
    result = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    assert result["points"] > 15
    assert result["wrong"] == []


def test_a_source_without_a_repair_is_wrong_usage(copy: Path, source: Path) -> None:
    with pytest.raises(ValueError, match="add --repair"):
        verify(copy, source=Source(source))


def test_a_description_that_is_damaged_is_still_an_error(copy: Path, source: Path) -> None:
    (copy / "dataset.json").write_text("{")
    with pytest.raises(ShardError, match="not JSON"):
        verify(copy, repair=True, source=Source(source))
