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
from viewmill.shards.storage.sources import located
from viewmill.shards.storage.tree import Tree, has_file

_RECORDS_AT_ONCE = 4096

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


def list_binaries(source: str | Path, subset: str | None = None) -> Listing:
    """The pictures of one binary file, or of a folder's `subset`: train, test or unlabeled.

    Raises:
        ConvertError: no such file, a size that is no whole number of records, labels that do not fit, or a
            folder without a subset, so that train and test are never mixed unasked.
    """
    tree, file = located(source)
    names = [file] if file is not None else _chosen(tree, str(source), subset)
    inputs: list[Input] = []
    for name in names:
        inputs += _inputs_of_file(tree, name)
    classes = _class_names(tree, _layout(names[0]), inputs)
    return Listing(tree, [_named(found, classes) for found in inputs], classes)


def _named(found: Input, classes: tuple[str, ...] | None) -> Input:
    """The input with its class's name in place of the number."""
    if classes is None or found.class_name is None:
        return found
    return found._replace(class_name=classes[int(found.class_name)])


def _chosen(tree: Tree, folder: str, subset: str | None) -> list[str]:
    there = [name for name in FILES if has_file(tree, name)]
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


def _inputs_of_file(tree: Tree, name: str) -> list[Input]:
    layout, state = _layout(name), tree.state(name)
    pixels = bytes_of(layout.form)
    record = layout.head + pixels
    if state.size == 0 or state.size % record:
        raise ConvertError(
            f"{tree.shown(name)}: {state.size} bytes are no whole number of records of {record}; "
            "copy it again"
        )
    count = state.size // record
    labels = _labels(tree, name, layout, count)
    inputs = []
    for number in range(count):
        shown = f"{name}/{number:06d}"
        offset = number * record + layout.head
        place = Place(name, offset, pixels, *state, layout.form)
        label = None if labels is None else str(labels[number])
        inputs.append(Input(shown, key_of_source(f"{Path(name).stem}/{number:06d}"), label, place))
    return inputs


def _labels(tree: Tree, name: str, layout: _Layout, count: int) -> list[int] | None:
    """The class of every record, counted from 0; None where the file has none."""
    if layout.head:
        return _labels_in_records(tree, name, layout)
    file = name.replace("_X", "_y")
    if name == "unlabeled_X.bin" or not has_file(tree, file):
        return None
    found = np.frombuffer(_content(tree, file), np.uint8)
    if len(found) != count or found.min() < 1:
        raise ConvertError(
            f"{tree.shown(file)}: {len(found)} labels for {count} pictures of {name}; copy both again"
        )
    return [int(label) - 1 for label in found]


def _labels_in_records(tree: Tree, name: str, layout: _Layout) -> list[int]:
    record = layout.head + bytes_of(layout.form)
    labels: list[int] = []
    with tree.open(name) as file:
        while block := file.read(record * _RECORDS_AT_ONCE):
            labels += np.frombuffer(block, np.uint8).reshape(-1, record)[:, layout.label].tolist()
    return labels


def _content(tree: Tree, file: str) -> bytes:
    with tree.open(file) as opened:
        return opened.read()


def _class_names(tree: Tree, layout: _Layout, inputs: list[Input]) -> tuple[str, ...] | None:
    """The names file beside the data, or the numbers."""
    labels = {int(found.class_name) for found in inputs if found.class_name is not None}
    if not labels:
        return None
    if not has_file(tree, layout.names_file):
        return tuple(str(number) for number in range(max(labels) + 1))
    names = tuple(_content(tree, layout.names_file).decode("utf-8").split())
    if max(labels) >= len(names) or len(set(names)) != len(names):
        shown = tree.shown(layout.names_file)
        raise ConvertError(f"{shown}: {len(names)} names for labels up to {max(labels)}; copy it again")
    return names
