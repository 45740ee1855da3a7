"""Classes from a file: by order, by name, and whatever does not match."""

from pathlib import Path

import pytest
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.errors import ConvertError
from viewmill.shards.manifest import Dataset
from viewmill.shards.sources.open import SourceOptions, list_source

from tests.shards.pictures import encoded, picture
from tests.shards.sources.test_tars import tar

IMAGES = {f"ILSVRC2012_val_{number:08d}.JPEG": encoded(picture(number), "JPEG") for number in (1, 2, 3)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tar(tmp_path / "val.tar", dict(reversed(IMAGES.items())))


def labelled(source: Path, text: str) -> tuple[dict[str, str | None], tuple[str, ...] | None]:
    (source.parent / "labels.txt").write_text(text)
    listing = list_source(source, SourceOptions(labels=str(source.parent / "labels.txt")))
    return {one.path.rpartition("_")[2]: one.class_name for one in listing.inputs}, listing.classes


def test_a_line_an_image_goes_by_the_order_of_names_not_of_the_tar(source: Path) -> None:
    found, classes = labelled(source, "490\n361\n171\n")
    assert found == {"00000001.JPEG": "490", "00000002.JPEG": "361", "00000003.JPEG": "171"}
    assert classes is not None
    assert len(classes) == 491


@pytest.mark.parametrize("separator", ["\t", ",", " ", ", "])
def test_a_name_and_a_class_a_line(source: Path, separator: str) -> None:
    text = "".join(f"{name}{separator}n0{number}\n" for number, name in enumerate(IMAGES))
    found, classes = labelled(source, text)
    assert found == {"00000001.JPEG": "n00", "00000002.JPEG": "n01", "00000003.JPEG": "n02"}
    assert classes is None


def test_with_a_label_map_numbers_become_names(source: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("2\n1\n2\n")
    pairs = (("1", "n01"), ("2", "n02"))
    options = SourceOptions(labels=str(tmp_path / "labels.txt"))
    convert_with(source, tmp_path / "out", Options(label_map=pairs), reading=options)
    with Dataset.open(tmp_path / "out") as dataset:
        labels = dict(zip(dataset.keys(range(3)), dataset.labels(range(3)).tolist(), strict=True))
        assert dataset.classes == ("n01", "n02")
    assert labels == {f"val/ILSVRC2012_val_{n:08d}": label for n, label in ((1, 1), (2, 0), (3, 1))}
    assert str(tmp_path) not in (tmp_path / "out" / "dataset.json").read_text()


def test_a_folder_keeps_files_that_are_no_image_without_a_line(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, data in IMAGES.items():
        (tmp_path / "in" / name).write_bytes(data)
    (tmp_path / "in" / "0_readme.txt").write_text("text")
    found, _ = labelled(tmp_path / "in", "a\nb\nc\n")
    assert found["readme.txt"] is None
    assert found["00000003.JPEG"] == "c"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n2\n", "2 lines for 3 images"),
        ("x.JPEG 1\ny.JPEG 2\nz.JPEG 3\n", "no line for 'val.tar/ILSVRC2012_val_00000003.JPEG'"),
        ("1\nx 2\n3\n", "'x 2' has another number of columns"),
    ],
)
def test_what_does_not_match_is_named(source: Path, text: str, said: str) -> None:
    with pytest.raises(ConvertError, match=rf"labels\.txt: {said}"):
        labelled(source, text)


def test_a_missing_file_and_a_table_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"absent\.txt: no such file"):
        list_source(source, SourceOptions(labels=str(tmp_path / "absent.txt")))
    (tmp_path / "t.csv").write_text("path\nx.jpg\n")
    with pytest.raises(ConvertError, match="--labels is for folder or tar"):
        list_source(tmp_path / "t.csv", SourceOptions(labels="x"))
