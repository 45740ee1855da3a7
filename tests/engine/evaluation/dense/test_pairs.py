"""Where pictures and masks lie: VOC's folders, tables, tars; and what of them is refused."""

import shutil
import tarfile
from pathlib import Path

import pytest
from viewmill.engine.evaluation.dense.pairs import VOC_CLASSES, open_labelled

from tests.engine.evaluation.dense.scenes import CLASSES, opened, voc_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return voc_folder(tmp_path / "scenes", train=3, test=2)


def table_of(folder: Path) -> Path:
    """The same pictures as a table beside their folders."""
    lines = ["image\tmask\tsplit\tweather"]
    for number in (0, 1, 2, 1000, 1001):
        split = "val" if number >= 1000 else "train"
        lines.append(f"JPEGImages/s{number:04d}.jpg\tSegmentationClass/s{number:04d}.png\t{split}\tfair")
    table = folder / "scenes.tsv"
    table.write_text("\n".join(lines) + "\n")
    return table


def test_a_voc_folder_has_the_pictures_of_its_lists_in_their_order(folder: Path) -> None:
    listed = folder / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text("s0002\ns0000\n\n")
    data = opened(folder)
    assert [pair.name for pair in data.train] == ["s0002", "s0000"]
    assert [pair.name for pair in data.test] == ["s1000", "s1001"]
    assert data.train[0].image.read() == (folder / "JPEGImages" / "s0002.jpg").read_bytes()
    assert data.train[0].mask.read() == (folder / "SegmentationClass" / "s0002.png").read_bytes()


def test_a_voc_folder_has_vocs_classes_where_none_are_given(folder: Path) -> None:
    data = open_labelled(folder)
    assert data.classes == VOC_CLASSES
    assert (len(data.classes), data.ignored) == (21, 255)


def test_a_table_names_the_same_pictures_and_may_have_other_columns(folder: Path) -> None:
    data = open_labelled(table_of(folder), classes=CLASSES)
    voc = opened(folder)
    assert [(one.image, one.mask) for one in data.train] == [(one.image, one.mask) for one in voc.train]
    assert [(one.image, one.mask) for one in data.test] == [(one.image, one.mask) for one in voc.test]


def test_members_of_the_tar_beside_a_table_are_read_without_unpacking(folder: Path) -> None:
    table = table_of(folder)
    expected = [pair.image.read() + pair.mask.read() for pair in open_labelled(table, classes=CLASSES).test]
    with tarfile.open(folder / "scenes.tar", "w") as tar:
        for kind in ("SegmentationClass", "JPEGImages"):
            tar.add(folder / kind, f"./{kind}")
            shutil.rmtree(folder / kind)
    found = open_labelled(table, classes=CLASSES)
    assert [pair.image.read() + pair.mask.read() for pair in found.test] == expected


def test_missing_masks_are_counted_and_the_first_is_named(folder: Path) -> None:
    for name in ("s0001", "s0002"):
        (folder / "SegmentationClass" / f"{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train.txt: 2 of 6 .* first is SegmentationClass/s0001.png"):
        opened(folder)


@pytest.mark.parametrize("name", ["../s0000", "/etc/passwd", "a/../../b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text(f"{name}\n")
    with pytest.raises(ValueError, match=r"val.txt: .* is no file below its folder"):
        opened(folder)


def test_a_split_that_is_not_there_or_empty_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"trainval.txt: there is no such file"):
        open_labelled(folder, train_split="trainval")
    with pytest.raises(ValueError, match="no row is of split 'test'; there are train, val"):
        open_labelled(table_of(folder), classes=CLASSES, test_split="test")
    with pytest.raises(ValueError, match="cannot be both learnt and tested"):
        open_labelled(folder, test_split="train")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match="it names no picture"):
        open_labelled(folder)


def test_a_table_without_a_column_or_classes_is_refused(folder: Path) -> None:
    table = table_of(folder)
    with pytest.raises(ValueError, match="does not say what its masks mean; give --classes"):
        open_labelled(table)
    table.write_text(table.read_text().replace("mask", "label", 1))
    with pytest.raises(ValueError, match=r"no column mask; it needs split, image, mask"):
        open_labelled(table, classes=CLASSES)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="no table of text"):
        open_labelled(table, classes=CLASSES)


def test_classes_twice_and_an_ignored_value_among_them_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="each once, got 2"):
        open_labelled(folder, classes=("sky", "sky"))
    with pytest.raises(ValueError, match=r"the ignored value 1 must lie in \[3, 65535\]"):
        open_labelled(folder, classes=CLASSES, ignored=1)


def test_a_path_that_is_neither_folder_nor_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder"):
        open_labelled(tmp_path / "nothing.tsv", classes=CLASSES)
