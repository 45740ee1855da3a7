"""A label map: the classes of a source under other names and numbers."""

import csv
import json
from pathlib import Path

from viewmill.shards.errors import ConvertError

Pairs = tuple[tuple[str, str], ...]  # (name in the source, new name), in the file's order


def read_label_map(path: Path) -> Pairs:
    """The pairs of a .json object or of a .csv or .tsv with two columns and no header.

    Raises:
        ConvertError: no such file, another form, or a name that stands twice.
    """
    if not path.is_file():
        raise ConvertError(f"{path}: no such file; give a table 'old name, new name' (.csv, .tsv or .json)")
    try:
        pairs = _pairs_of(path)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ConvertError(f"{path}: no label map ({error})") from error
    names = [old for old, _ in pairs]
    if not pairs or len(set(names)) != len(names):
        double = next((name for name in names if names.count(name) > 1), None)
        raise ConvertError(f"{path}: " + (f"'{double}' stands there twice" if double else "no pair of names"))
    return pairs


def _pairs_of(path: Path) -> Pairs:
    text = path.read_text(encoding="utf-8-sig")
    if path.suffix.lower() == ".json":
        tree = json.loads(text)
        if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree.values()):
            raise ValueError("expected an object of texts")
        return tuple(tree.items())
    rows = list(csv.reader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    for number, row in enumerate(rows, 1):
        if row and len(row) != 2:
            raise ValueError(f"line {number} has {len(row)} columns, expected 2")
    return tuple((row[0], row[1]) for row in rows if row)


def renamed(names: list[str], pairs: Pairs) -> tuple[list[str], dict[str | None, int]]:
    """(classes, label by the source's name): new names are numbered as they first stand in the map.

    Several names may become one class; an empty new name is no class, label -1.

    Raises:
        ConvertError: a class of the source that the map does not name.
    """
    new_name = dict(pairs)
    for name in names:
        if name not in new_name:
            raise ConvertError(
                f"class '{name}' is not in the label map; add a line for it (an empty new name leaves "
                "its images without a class)"
            )
    classes = list(dict.fromkeys(new for _, new in pairs if new))
    number = {new: label for label, new in enumerate(classes)}
    return classes, {old: number.get(new, -1) for old, new in pairs}
