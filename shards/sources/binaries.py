"""CIFAR-10, CIFAR-100 and STL-10 as their authors distribute them: records of raw pixels in a few files.

Layouts: the data sets' own pages. CIFAR-10 has a byte of label and 3072 of pixels, CIFAR-100 two bytes
(coarse and fine) and 3072, both in planes of rows; STL-10 has 27648 bytes of pixels, columns first, and
labels 1..10 in a file of their own.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.raw import bytes_of
from viewmill.shards.sources.inputs import Input, Listing, Place

CIFAR10_FILES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
CIFAR100_FILES = ("train.bin", "test.bin")
STL10_FILES = ("train_X.bin", "test_X.bin", "unlabeled_X.bin")
FILES = (*CIFAR10_FILES, *CIFAR100_FILES, *STL10_FILES)
SUBSETS = {
    "train": (*CIFAR10_FILES[:5], "train.bin", "train_X.bin"),
    "test": ("test_batch.bin", "test.bin", "test_X.bin"),
    "unlabeled": ("unlabeled_X.bin",),
}


class _Layout(NamedTuple):
    """form: of the pixels. head: bytes before them in a record; label: which of those is the class."""

    form: str
    head: int
    label: int
    names_file: str


_CIFAR10 = _Layout("cifar", 1, 0, "batches.meta.txt")
_CIFAR100 = _Layout("cifar", 2, 1, "fine_label_names.txt")
_STL10 = _Layout("stl", 0, 0, "class_names.txt")


def list_binaries(source: Path, subset: str | None = None) -> Listing:
    """The pictures of one binary file, or of a folder's `subset`: train, test or unlabeled.

    Raises:
        ConvertError: no such file, a size that is no whole number of records, labels that do not fit, or a
            folder without a subset, so that train and test are never mixed unasked.
    """
    root, names = (source.parent, [source.name]) if source.is_file() else (source, _chosen(source, subset))
    inputs: list[Input] = []
    for name in names:
        inputs += _inputs_of_file(root, name)
    classes = _class_names(root, _layout(names[0]), inputs)
    return Listing(root, [_named(found, classes) for found in inputs], classes)


def _named(found: Input, classes: tuple[str, ...] | None) -> Input:
    """The input with its class's name in place of the number."""
    if classes is None or found.class_name is None:
        return found
    return found._replace(class_name=classes[int(found.class_name)])


def _chosen(folder: Path, subset: str | None) -> list[str]:
    there = [name for name in FILES if (folder / name).is_file()]
    if not there:
        raise ConvertError(f"{folder}: none of {', '.join(FILES)} is here; give CIFAR's or STL-10's folder")
    if subset not in SUBSETS:
        raise ConvertError(
            f"{folder}: holds {', '.join(there)}; choose one of {', '.join(SUBSETS)} with --subset, "
            "or give one of the files"
        )
    chosen = [name for name in there if name in SUBSETS[subset]]
    if not chosen:
        raise ConvertError(f"{folder}: holds {', '.join(there)}, and nothing of '{subset}'")
    return chosen


def _layout(name: str) -> _Layout:
    if name in STL10_FILES:
        return _STL10
    return _CIFAR100 if name in CIFAR100_FILES else _CIFAR10


def _inputs_of_file(root: Path, name: str) -> list[Input]:
    layout, path = _layout(name), root / name
    status = path.stat()
    pixels = bytes_of(layout.form)
    record = layout.head + pixels
    if status.st_size == 0 or status.st_size % record:
        raise ConvertError(
            f"{path}: {status.st_size} bytes are no whole number of records of {record}; copy it again"
        )
    count = status.st_size // record
    labels = _labels(root, name, layout, count)
    inputs = []
    for number in range(count):
        shown = f"{name}/{number:06d}"
        offset = number * record + layout.head
        place = Place(name, offset, pixels, status.st_size, status.st_mtime_ns, layout.form)
        label = None if labels is None else str(labels[number])
        inputs.append(Input(shown, key_of_source(f"{Path(name).stem}/{number:06d}"), label, place))
    return inputs


def _labels(root: Path, name: str, layout: _Layout, count: int) -> list[int] | None:
    """The class of every record, counted from 0; None where the file has none."""
    if layout.head:
        records = np.memmap(root / name, np.uint8, "r").reshape(count, -1)
        labels: list[int] = records[:, layout.label].tolist()
        return labels
    path = root / name.replace("_X", "_y")
    if name == "unlabeled_X.bin" or not path.is_file():
        return None
    found = np.fromfile(path, np.uint8)
    if len(found) != count or found.min() < 1:
        raise ConvertError(f"{path}: {len(found)} labels for {count} pictures of {name}; copy both again")
    return [int(label) - 1 for label in found]


def _class_names(root: Path, layout: _Layout, inputs: list[Input]) -> tuple[str, ...] | None:
    """The names file beside the data, or the numbers."""
    labels = {int(found.class_name) for found in inputs if found.class_name is not None}
    if not labels:
        return None
    path = root / layout.names_file
    if not path.is_file():
        return tuple(str(number) for number in range(max(labels) + 1))
    names = tuple(path.read_text(encoding="utf-8").split())
    if max(labels) >= len(names) or len(set(names)) != len(names):
        raise ConvertError(f"{path}: {len(names)} names for labels up to {max(labels)}; copy it again")
    return names
