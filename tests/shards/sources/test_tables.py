"""Tables of paths: columns, classes, files that are not there, rows that say nothing."""

from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.sources.tables import list_table

from tests.shards.pictures import encoded, picture


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(number), "JPEG"))
    return tmp_path


def table(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", 'path,label\n0.jpg,"a cat"\n1.jpg,dog\n2.jpg,\n'),
        ("list.tsv", "path\tlabel\n0.jpg\ta cat\n1.jpg\tdog\n2.jpg\t\n"),
        (
            "list.jsonl",
            '{"path": "0.jpg", "label": "a cat"}\n\n{"path": "1.jpg", "label": "dog"}\n{"path": "2.jpg"}',
        ),
    ],
)
def test_the_three_formats_say_the_same(images: Path, name: str, text: str) -> None:
    report = convert(table(images, name, text), images / "out")
    assert (report.inputs, report.samples, report.quarantined) == (3, 3, 0)
    with Dataset.open(images / "out") as dataset:
        found = dict(zip(dataset.keys(range(3)), dataset.labels(range(3)).tolist(), strict=True))
        assert dataset.classes == ("a cat", "dog")
        assert found == {"0": 0, "1": 1, "2": -1}
        (position,) = [sample for sample in range(3) if dataset.keys([sample]) == ["1"]]
        assert dataset.read([position]) == [(images / "1.jpg").read_bytes()]


def test_numbers_keep_their_meaning_as_labels(images: Path) -> None:
    listing = list_table(table(images, "list.csv", "file,class\n0.jpg,7\n1.jpg,2\n"))
    assert listing.classes == tuple(map(str, range(8)))
    assert [found.class_name for found in listing.inputs] == ["7", "2"]


def test_names_among_numbers_are_names(images: Path) -> None:
    assert list_table(table(images, "list.csv", "file,class\n0.jpg,7\n1.jpg,07\n")).classes is None


def test_columns_are_chosen_and_paths_start_from_a_root(images: Path) -> None:
    (images / "tables").mkdir()
    text = "photo;,wnid,picture\nx,n01,0.jpg\n"
    options = SourceOptions(root=str(images), path_column="picture", label_column="wnid")
    convert(table(images / "tables", "list.csv", text), images / "out", reading=options)
    with Dataset.open(images / "out") as dataset:
        assert dataset.classes == ("n01",)
    assert str(images) not in (images / "out" / "dataset.json").read_text()


def test_a_file_that_is_not_there_is_quarantined(images: Path) -> None:
    report = convert(table(images, "list.csv", "path\n0.jpg\nabsent.jpg\n"), images / "out")
    assert (report.inputs, report.samples, report.reasons) == (2, 1, {"unreadable": 1})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("list.csv", "", "no rows"),
        ("list.csv", "x,y\n1,2\n", "there are: x, y"),
        ("list.csv", "path,label\n,cat\n", "line 2 has no path in 'path'"),
        ("list.csv", "path\n0.jpg\n0.jpg\n", "have the same key '0'"),
        ("list.jsonl", '{"path": 3}', "line 1 has no path"),
        ("list.jsonl", '{"path": "0.jpg"}\n[1]', "line 2 is no JSON object"),
        ("list.jsonl", "{", "line 1 is not JSON"),
        ("list.csv", "path,label\n0.jpg,1000000\n", "class number 1000000"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(images: Path, name: str, text: str, said: str) -> None:
    with pytest.raises(ConvertError, match=f"({name}|class number).*{said}|{said}"):
        convert(table(images, name, text), images / "out")
    assert not (images / "out").exists()


def test_a_table_that_is_not_utf8_is_named(images: Path) -> None:
    (images / "list.csv").write_bytes(b"path\n\xff.jpg\n")
    with pytest.raises(ConvertError, match=r"list\.csv: not UTF-8 at byte 5"):
        list_table(images / "list.csv")


def test_an_option_of_another_kind_of_source_is_refused(images: Path) -> None:
    with pytest.raises(ConvertError, match="--class-level is for folder, and this is read as table"):
        convert(
            table(images, "list.csv", "path\n0.jpg\n"),
            images / "out",
            reading=SourceOptions(class_level=1),
        )
