"""Splits: each input in exactly one, whatever else is there; killed and rerun, the same data sets."""

from pathlib import Path

import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.splits import parse_splits
from viewmill.shards.convert import convert_splits
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import read_info
from viewmill.shards.manifest import Dataset

from tests.shards.pictures import tree_hashes, write_tree

SPLITS = parse_splits("train=0.6,val=0.25,test=0.15")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "in", per_class=20)


def keys(dataset: Path) -> set[str]:
    with Dataset.open(dataset) as opened:
        return set(opened.keys(range(opened.num_samples)))


def test_every_input_is_in_exactly_one_split(source: Path, tmp_path: Path) -> None:
    reports = convert_splits(source, tmp_path / "out", Options(), SPLITS)
    assert sum(report.inputs for report in reports) == 63
    assert sum(report.samples for report in reports) == 61
    found = [keys(tmp_path / "out" / split.name) for split in SPLITS]
    assert len(set.union(*found)) == sum(map(len, found)) == 61
    for split in SPLITS:
        assert read_info(tmp_path / "out" / split.name).classes == ("class_0", "class_1", "class_2")


def test_new_images_do_not_move_old_ones(source: Path, tmp_path: Path) -> None:
    convert_splits(source, tmp_path / "before", Options(), SPLITS)
    for number in range(4):
        write_tree(tmp_path / "more" / f"{number}")
        (tmp_path / "more" / f"{number}").rename(source / f"more_{number}")
    convert_splits(source, tmp_path / "after", Options(), SPLITS)
    for split in SPLITS:
        assert keys(tmp_path / "before" / split.name) <= keys(tmp_path / "after" / split.name)


def test_shares_are_those_of_many_keys() -> None:
    held = [sum(split.holds(f"class/{number}") for number in range(20_000)) / 20_000 for split in SPLITS]
    assert sum(held) == 1
    assert held == pytest.approx([0.6, 0.25, 0.15], abs=0.012)  # 3.5 standard errors of the largest


def test_the_same_command_again_finishes_what_was_killed(source: Path, tmp_path: Path) -> None:
    convert_splits(source, tmp_path / "whole", Options(), SPLITS)
    convert_splits(source, tmp_path / "out", Options(), SPLITS[:1])
    convert_splits(source, tmp_path / "out", Options(), SPLITS)
    for split in SPLITS:
        assert tree_hashes(tmp_path / "out" / split.name) == tree_hashes(tmp_path / "whole" / split.name)


def test_other_options_never_pass_for_the_finished_split(source: Path, tmp_path: Path) -> None:
    convert_splits(source, tmp_path / "out", Options(), SPLITS[:1])
    with pytest.raises(ConvertError, match="train: holds a finished data set of other options"):
        convert_splits(source, tmp_path / "out", Options(shuffle_seed=3), SPLITS)


def test_a_split_without_inputs_is_an_error(tmp_path: Path) -> None:
    source, splits = write_tree(tmp_path / "in"), parse_splits("train=0.9999,val=0.0001")
    with pytest.raises(ConvertError, match="split 'val' gets none of 15 inputs; make it larger"):
        convert_splits(source, tmp_path / "out", Options(), splits[1:])


@pytest.mark.parametrize(
    "text", ["train", "train=1", "a=0.5,b=0.4", "a=0.5,a=0.5", "a=0.5,b=x", "a/=0.5,c=0.5"]
)
def test_what_is_no_split_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--split"):
        parse_splits(text)
