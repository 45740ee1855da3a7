"""Pictures with a class for every pixel: where they lie, and what the values of a mask mean."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from viewmill.shards.sources.tars import members_of_tar

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
IGNORED = 255  # a border in VOC's masks
COLUMNS = ("split", "image", "mask")
TABLES = {".tsv": "\t", ".csv": ","}
MAX_VALUE = 65_535  # of a mask of 16 bits


class Place(NamedTuple):
    """Bytes of a file: all of it, or those of a member of a tar."""

    path: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes. Raises OSError: the file is gone, or cannot be read."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


class Pair(NamedTuple):
    """A picture and its mask."""

    name: str  # for people
    image: Place
    mask: Place


@dataclass(frozen=True)
class Labelled:
    """Two splits of pictures with masks, and the classes 0, 1, ... of their pixels."""

    name: str  # for people; no path of a machine
    train: list[Pair]
    test: list[Pair]
    classes: tuple[str, ...]
    ignored: int  # pixels of this value have no class: they are in no loss and in no score


def open_labelled(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    ignored: int = IGNORED,
    train_split: str = "train",
    test_split: str = "val",
) -> Labelled:
    """A folder as PASCAL VOC lays it out, or a table of pictures and masks.

    A table (.tsv or .csv) has the columns split, image and mask; its paths start from its folder, or are
    members of the tar that stands beside it under the same name.

    Args:
        classes: names of the values 0, 1, ... of the masks; None: the 21 of VOC, for a folder alone.
        ignored: the value of pixels that count for nothing.

    Raises:
        FileNotFoundError: there is no such folder, table or split file, or images or masks are missing.
        ValueError: neither a folder nor a table, no classes, an empty split, or one split twice.
    """
    if train_split == test_split:
        raise ValueError(f"the split {train_split!r} cannot be both learnt and tested; name two")
    if path.is_dir():
        train, test = (_voc_pairs(path, split) for split in (train_split, test_split))
        names = VOC_CLASSES if classes is None else tuple(classes)
    elif path.suffix in TABLES and path.is_file():
        train, test = _table_pairs(path, (train_split, test_split))
        names = _given(path, classes)
    else:
        raise FileNotFoundError(
            f"{path}: neither a folder (JPEGImages, SegmentationClass, ImageSets/Segmentation) nor a table "
            "(.tsv or .csv with the columns split, image and mask); check the path"
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"{path}: a mask has two classes or more, each once, got {len(names)}: {names[:5]}")
    if not len(names) <= ignored <= MAX_VALUE:
        raise ValueError(
            f"{path}: the ignored value {ignored} must lie in [{len(names)}, {MAX_VALUE}], beyond the "
            f"{len(names)} classes; give --ignore"
        )
    return Labelled(path.stem, train, test, names, ignored)


def _given(table: Path, classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None:
        raise ValueError(f"{table}: a table does not say what its masks mean; give --classes a,b,c or a file")
    return tuple(classes)


def _voc_pairs(folder: Path, split: str) -> list[Pair]:
    """The pictures that ImageSets/Segmentation/SPLIT.txt names, in its order."""
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(
            f"{listed}: there is no such file; give the folder that holds JPEGImages, SegmentationClass and "
            "ImageSets (VOCdevkit/VOC2012), and a split of it"
        )
    names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name in names:
        _refuse_unsafe(name, listed)
    wanted = [(name, f"JPEGImages/{name}.jpg", f"SegmentationClass/{name}.png") for name in names]
    return _found(str(listed), folder, wanted)


def _table_pairs(table: Path, splits: tuple[str, str]) -> tuple[list[Pair], list[Pair]]:
    """The pictures of both splits, in the table's order."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=TABLES[table.suffix], strict=True)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"{table}: no column {', '.join(lacking)}; it needs {', '.join(COLUMNS)}")
            rows = [(row["split"] or "", row["image"] or "", row["mask"] or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: no table of text: {error}; save it as UTF-8") from error
    known = sorted({split for split, _, _ in rows})
    for split in splits:
        if split not in known:
            raise ValueError(f"{table}: no row is of split {split!r}; there are {', '.join(known) or 'none'}")
    for _, image, mask in rows:
        _refuse_unsafe(image, table)
        _refuse_unsafe(mask, table)
    train, test = (
        _found(f"{table} ({split})", table, [(row[1], row[1], row[2]) for row in rows if row[0] == split])
        for split in splits
    )
    return train, test


def _refuse_unsafe(name: str, where: Path) -> None:
    """Raises ValueError: a name that would lead out of the folder; lists are untrusted."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or parts[0] == "/" or not name.isprintable():
        raise ValueError(f"{where}: {name!r} is no file below its folder; correct the list")


def _found(shown: str, root: Path, wanted: list[tuple[str, str, str]]) -> list[Pair]:
    """The pairs of (name, image, mask) below a folder, beside a table, or in the tar beside it.

    Raises:
        FileNotFoundError: some are not there; names the first.
        ValueError: none are wanted.
    """
    if not wanted:
        raise ValueError(f"{shown}: it names no picture; give a split with pictures")
    tar = root.with_suffix(".tar")
    in_tar = root.is_file() and tar.is_file()
    members = {_plain(one.name): Place(tar, *one[1:]) for one in members_of_tar(tar)} if in_tar else {}
    folder = root.parent if root.is_file() else root
    pairs, missing = [], []
    for name, *files in wanted:
        places = [members.get(_plain(file)) if in_tar else _place_of(folder / file) for file in files]
        missing += [file for file, place in zip(files, places, strict=True) if place is None]
        pairs += [
            Pair(name, image, mask) for image, mask in [places] if image is not None and mask is not None
        ]
    if missing:
        raise FileNotFoundError(
            f"{shown}: {len(missing)} of {2 * len(wanted)} images and masks are missing in "
            f"{tar if in_tar else folder}, the first is {missing[0]}; every picture needs both"
        )
    return pairs


def _plain(name: str) -> str:
    """./a/b as a/b, which many tars have their members by."""
    return str(PurePosixPath(name))


def _place_of(path: Path) -> Place | None:
    return Place(path, 0, path.stat().st_size) if path.is_file() else None
