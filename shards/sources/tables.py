"""A table of images as a source: CSV, TSV or JSON lines with a column of paths and one of classes."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, numbered_classes, whole_file
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.sources import located, tree_at
from viewmill.shards.storage.tree import Tree, for_each
from viewmill.shards.storage.urls import is_http, is_url, suffix_of

SUFFIXES = (".csv", ".tsv", ".jsonl")
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")
LABEL_COLUMNS = ("label", "class", "class_name", "target", "category")


def list_table(
    table: str | Path,
    *,
    root: str | Path | None = None,
    path_column: str | None = None,
    label_column: str | None = None,
) -> Listing:
    """The images that a table names, in its order; the first line of CSV and TSV names the columns.

    Classes that are all numbers keep them as labels. An empty class is none. A file that is not there is an
    input with a fault.

    Args:
        table: a file ending in .csv, .tsv or .jsonl, or its URL. Its paths may be URLs, then all of them.
        root: what relative paths start from, a folder or a URL; None is the table's folder.
        path_column: None is the first of `PATH_COLUMNS` that is there.
        label_column: None is the first of `LABEL_COLUMNS` that is there, or no classes.

    Raises:
        ConvertError: no such table, no such column, or a row without a path; the line is named.
    """
    tree, file = located(table)
    if file is None:
        raise ConvertError(f"{table}: no such file; give a table of images (.csv, .tsv or .jsonl)")
    rows = list(_rows(tree, file))
    if not rows:
        raise ConvertError(f"{table}: no rows; give one image a line")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    path_name = _column(table, columns, path_column, PATH_COLUMNS, needed=True)
    label_name = _column(table, columns, label_column, LABEL_COLUMNS, needed=False)
    images = _tree_of_images(table, tree if root is None else tree_at(root), rows, path_name)
    read = partial(_input, str(table), images, path_name=path_name, label_name=label_name)
    inputs = list(for_each(images, read, rows))
    names = {found.class_name for found in inputs if found.class_name is not None}
    return Listing(images, inputs, numbered_classes(names))


def _rows(tree: Tree, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, its fields) of every row."""
    table, suffix = tree.shown(name), suffix_of(tree.shown(name))
    try:
        with tree.open(name) as opened, io.TextIOWrapper(opened, "utf-8-sig", newline="") as file:
            if suffix == ".jsonl":
                yield from _json_rows(table, file)
            else:
                reader = csv.DictReader(file, delimiter="\t" if suffix == ".tsv" else ",")
                for row in reader:
                    yield reader.line_num, {name: text for name, text in row.items() if name is not None}
    except UnicodeDecodeError as error:
        raise ConvertError(f"{table}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except csv.Error as error:
        raise ConvertError(f"{table}: {error}; check its quotes") from error


def _json_rows(table: str, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
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
    table: str | Path, columns: list[str], wished: str | None, usual: tuple[str, ...], *, needed: bool
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


def _tree_of_images(
    table: str | Path, tree: Tree, rows: list[tuple[int, dict[str, Any]]], path_name: str | None
) -> Tree:
    """The tree of the rows' paths: the one that they start from, or all URLs."""
    lines: dict[bool, int] = {}  # the first line with a URL, and with a path
    for number, row in rows:
        path = row.get(path_name or "")
        if isinstance(path, str):
            lines.setdefault(is_url(path), number)
    if True not in lines:
        return tree
    if False in lines:
        raise ConvertError(
            f"{table}: line {lines[True]} has a URL, line {lines[False]} a path; make all of them URLs"
        )
    return RemoteTree("")


def _input(
    table: str,
    tree: Tree,
    numbered: tuple[int, dict[str, Any]],
    *,
    path_name: str | None,
    label_name: str | None,
) -> Input:
    number, row = numbered
    path = row.get(path_name or "")
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConvertError(f"{table}: line {number} has no path in '{path_name}'")
    if tree.waits and path.startswith("/"):
        raise ConvertError(f"{table}: line {number}: '{path}' is a path of a machine, and the root is a URL")
    label = row.get(label_name) if label_name is not None else None
    try:
        place, fault = whole_file(tree, path)
    except ValueError as error:  # a URL that is not read
        raise ConvertError(f"{table}: line {number}: {error}") from error
    name = None if label is None or label == "" else str(label)
    return Input(path, key_of_source(_without_protocol(path).lstrip("/")), name, place, fault)


def _without_protocol(path: str) -> str:
    """The path, or a URL as it is without protocol and query."""
    if not is_url(path):
        return path
    place = path.partition("://")[2]
    return place.partition("?")[0] if is_http(path) else place
