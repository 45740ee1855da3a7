"""A table of images as a source: CSV, TSV or JSON lines with a column of paths and one of classes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, numbered_classes, whole_file

SUFFIXES = (".csv", ".tsv", ".jsonl")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "target", "category")


def list_table(
    table: Path, *, root: Path | None = None, path_column: str | None = None, label_column: str | None = None
) -> Listing:
    """The images that a table names, in its order; the first line of CSV and TSV names the columns.

    Classes that are all numbers keep them as labels. An empty class is none. A file that is not there is an
    input with a fault.

    Args:
        table: a file ending in .csv, .tsv or .jsonl.
        root: what relative paths start from; None is the table's folder.
        path_column: None is the first of `PATH_COLUMNS` that is there.
        label_column: None is the first of `LABEL_COLUMNS` that is there, or no classes.

    Raises:
        ConvertError: no such table, no such column, or a row without a path; the line is named.
    """
    if not table.is_file():
        raise ConvertError(f"{table}: no such file; give a table of images (.csv, .tsv or .jsonl)")
    root, rows = root or table.parent, list(_rows(table))
    if not rows:
        raise ConvertError(f"{table}: no rows; give one image a line")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    path_name = _column(table, columns, path_column, PATH_COLUMNS, needed=True)
    label_name = _column(table, columns, label_column, LABEL_COLUMNS, needed=False)
    inputs = [_input(table, root, number, row, path_name, label_name) for number, row in rows]
    names = {found.class_name for found in inputs if found.class_name is not None}
    return Listing(root, inputs, numbered_classes(names))


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, its fields) of every row."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            if table.suffix.lower() == ".jsonl":
                yield from _json_rows(table, file)
            else:
                reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
                for row in reader:
                    yield reader.line_num, {name: text for name, text in row.items() if name is not None}
    except UnicodeDecodeError as error:
        raise ConvertError(f"{table}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except csv.Error as error:
        raise ConvertError(f"{table}: {error}; check its quotes") from error


def _json_rows(table: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ConvertError(f"{table}: line {number} is not JSON ({error})") from error
        if not isinstance(row, dict):
            raise ConvertError(f"{table}: line {number} is no JSON object")
        yield number, row


def _column(
    table: Path, columns: list[str], wished: str | None, usual: tuple[str, ...], *, needed: bool
) -> str | None:
    if wished is not None:
        if wished not in columns:
            raise ConvertError(f"{table}: no column '{wished}'; there are: {', '.join(columns)}")
        return wished
    found = next((name for name in usual if name in columns), None)
    if found is None and needed:
        raise ConvertError(
            f"{table}: no column {', '.join(usual)}; there are: {', '.join(columns)}; "
            "name the one with the paths by --path-column"
        )
    return found


def _input(
    table: Path, root: Path, number: int, row: dict[str, Any], path_name: str | None, label_name: str | None
) -> Input:
    path = row.get(path_name or "")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConvertError(f"{table}: line {number} has no path in '{path_name}'")
    label = row.get(label_name) if label_name is not None else None
    place, fault = whole_file(root, path)
    name = None if label is None or label == "" else str(label)
    return Input(path, key_of_source(path.lstrip("/")), name, place, fault)
