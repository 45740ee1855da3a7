"""Label maps: new names, numbers in the map's order, classes that merge or vanish."""

from pathlib import Path

import pytest
from viewmill.shards.conversion.label_map import read_label_map
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset

from tests.shards.pictures import write_tree

PAIRS = (("class_2", "zebra"), ("class_0", "ant"), ("class_1", ""))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.csv", 'class_2,zebra\nclass_0,"ant"\n\nclass_1,\n'),
        ("map.tsv", "class_2\tzebra\nclass_0\tant\nclass_1\t\n"),
        ("map.json", '{"class_2": "zebra", "class_0": "ant", "class_1": ""}'),
    ],
)
def test_the_three_formats_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_label_map(tmp_path / name) == PAIRS


def test_classes_are_numbered_as_the_map_names_them(tmp_path: Path) -> None:
    convert_with(write_tree(tmp_path / "in"), tmp_path / "out", Options(label_map=PAIRS))
    with Dataset.open(tmp_path / "out") as dataset:
        ids = range(dataset.num_samples)
        assert dataset.classes == ("zebra", "ant")
        labels = dict(zip(dataset.keys(ids), dataset.labels(ids).tolist(), strict=True))
    assert {key.partition("/")[0]: label for key, label in labels.items()} == {
        "class_0": 1,
        "class_1": -1,
        "class_2": 0,
    }


def test_two_classes_may_become_one(tmp_path: Path) -> None:
    pairs = (("class_0", "x"), ("class_1", "y"), ("class_2", "x"))
    convert_with(write_tree(tmp_path / "in"), tmp_path / "out", Options(label_map=pairs))
    with Dataset.open(tmp_path / "out") as dataset:
        ids = range(dataset.num_samples)
        assert dataset.classes == ("x", "y")
        assert sorted(set(dataset.labels(ids).tolist())) == [0, 1]


def test_a_class_that_the_map_forgets_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="class 'class_2' is not in the label map; add a line"):
        convert_with(write_tree(tmp_path / "in"), tmp_path / "out", Options(label_map=PAIRS[1:]))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("map.csv", "a,b,c\n", "line 1 has 3 columns, expected 2"),
        ("map.csv", "a,b\na,c\n", "'a' stands there twice"),
        ("map.csv", "", "no pair of names"),
        ("map.json", '{"a": 3}', "expected an object of texts"),
        ("map.json", "{", "no label map"),
    ],
)
def test_what_is_no_map_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConvertError, match=rf"{name}: .*{said}"):
        read_label_map(tmp_path / name)


def test_a_missing_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"map\.csv: no such file"):
        read_label_map(tmp_path / "map.csv")
