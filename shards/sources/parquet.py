"""Parquet with encoded images in a column: Hugging Face's layout or plain bytes, read by row groups.

A compressed column has no byte ranges to come back to, and a shuffled shard takes rows from everywhere. So
the files are read twice in order: once for sizes and hashes, and once to spill the images, as they are, into
plain files of the conversion's workspace, which go when it ends.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from viewmill.shards.durable import written_whole
from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, Place, numbered_classes
from viewmill.shards.storage.sources import is_there, located
from viewmill.shards.storage.tree import NOT_STATED, Tree, files_ending

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes", "image_bytes")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target")
_ROWS_AT_ONCE = 256


class _Columns(NamedTuple):
    image: str
    label: str | None


class ParquetSpill(NamedTuple):
    """Writes the images of these files one after another, a plain file each; see `Spill`."""

    files: tuple[str, ...]
    image_column: str

    def write(self, tree: Tree, folder: Path) -> None:
        """Files that are there already are whole: each gets its name when it is."""
        folder.mkdir(exist_ok=True)
        for number, name in enumerate(self.files):
            target = folder / _spilled(number)
            if target.exists():
                continue
            with _reading(tree, name) as table, written_whole(target) as file:
                for images, _ in _batches(table, _Columns(self.image_column, None)):
                    for image in images:
                        file.write(image or b"")


def list_parquet(
    source: str | Path, *, image_column: str | None = None, label_column: str | None = None
) -> Listing:
    """The rows of one parquet file, or of every one below a folder, in the order of names and rows.

    The image is bytes or a struct with `bytes`; the class a number or a name. Names of numbers come from
    Hugging Face's ClassLabel or from a `classes` list in the file's metadata. A row without an image is an
    input with a fault.

    Args:
        source: a .parquet file or a folder of them.
        image_column: None is the first of `IMAGE_COLUMNS` that is there.
        label_column: None is the first of `LABEL_COLUMNS` that is there, or no classes.

    Raises:
        ConvertError: no such file or column, a damaged file, or a label without a name.
    """
    tree, names = _files_of(source)
    columns = _columns(tree, names[0], image_column, label_column)
    classes = None if columns.label is None else _class_names(tree, names[0], columns.label)
    inputs: list[Input] = []
    for number, name in enumerate(names):
        inputs += _inputs_of_file(tree, name, number, columns, classes)
    if classes is None:
        found = {one.class_name for one in inputs if one.class_name is not None}
        classes = numbered_classes(found) or tuple(sorted(found))
    return Listing(tree, inputs, classes, ParquetSpill(tuple(names), columns.image))


def _files_of(source: str | Path) -> tuple[Tree, list[str]]:
    tree, file = located(source)
    found = [file] if file is not None else files_ending(tree, ".parquet") if is_there(source) else []
    if not found:
        raise ConvertError(f"{source}: no parquet file here; give one, or a folder of them")
    return tree, found


def _columns(tree: Tree, file: str, image: str | None, label: str | None) -> _Columns:
    with _reading(tree, file) as table:
        there = table.schema_arrow.names
    image = image or next((name for name in IMAGE_COLUMNS if name in there), None)
    label = label or next((name for name in LABEL_COLUMNS if name in there), None)
    for name, flag in ((image, "--image-column"), (label, "--label-column")):
        if (name is None and name is image) or (name is not None and name not in there):
            wanted = f"no column '{name}'" if name else f"no column {', '.join(IMAGE_COLUMNS)}"
            raise ConvertError(
                f"{tree.shown(file)}: {wanted}; there are: {', '.join(there)}; choose with {flag}"
            )
    assert image is not None
    return _Columns(image, label)


def _class_names(tree: Tree, file: str, label: str) -> tuple[str, ...] | None:
    """Names of numbered classes that the file's metadata states."""
    path = tree.shown(file)
    with _reading(tree, file) as table:
        metadata = table.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = features.get(label, {}).get("names") or json.loads(metadata.get(b"classes", b"null"))
    except (ValueError, AttributeError) as error:
        raise ConvertError(f"{path}: its metadata does not name the classes as text ({error})") from error
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConvertError(
            f"{path}: its metadata names the classes as {names!r:.80}, expected a list of names"
        )
    return tuple(names)


def _inputs_of_file(
    tree: Tree, name: str, number: int, columns: _Columns, classes: tuple[str, ...] | None
) -> list[Input]:
    rows: list[tuple[int, int, int | None, str | None]] = []
    offset = 0
    with _reading(tree, name) as table:
        for images, labels in _batches(table, columns):
            for image, label in zip(images, labels, strict=True):
                size = len(image or b"")
                digest = None if image is None else xxhash.xxh64_intdigest(image)
                rows.append((offset, size, digest, _class_of(tree.shown(name), len(rows), label, classes)))
                offset += size
    inputs = []
    for row, (start, size, digest, class_name) in enumerate(rows):
        place = Place(_spilled(number), start, size, offset, NOT_STATED, xxh64=digest)
        fault = "empty: the row has no image" if digest is None else None
        key = key_of_source(f"{name.removesuffix('.parquet')}/{row:08d}")
        inputs.append(Input(f"{name}/{row:08d}", key, class_name, place, fault))
    return inputs


def _class_of(path: str, row: int, label: Any, classes: tuple[str, ...] | None) -> str | None:
    if label is None or label == "" or label == -1:
        return None
    if classes is None or isinstance(label, str):
        if classes is not None and label not in classes:
            raise ConvertError(f"{path}: row {row} has the class '{label}', which the metadata does not name")
        return str(label)
    if not isinstance(label, int) or not 0 <= label < len(classes):
        raise ConvertError(f"{path}: row {row} has label {label}, and {len(classes)} classes have names")
    return classes[label]


def _batches(table: pq.ParquetFile, columns: _Columns) -> Iterator[tuple[list[bytes | None], list[Any]]]:
    """(images, labels) of some rows at a time, in order."""
    wanted = [columns.image] + ([columns.label] if columns.label else [])
    for batch in table.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted, use_threads=False):
        labels = batch.column(columns.label).to_pylist() if columns.label else [None] * batch.num_rows
        yield _encoded(batch.column(columns.image)), labels


def _encoded(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_struct(column.type):
        names = [field.name for field in column.type]
        if "bytes" not in names:
            raise pa.ArrowInvalid(f"the image is a struct of {', '.join(names)}, without bytes")
        column = column.field("bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise pa.ArrowInvalid(f"the image column holds {column.type}, not bytes")
    images: list[bytes | None] = column.to_pylist()
    return images


@contextmanager
def _reading(tree: Tree, file: str) -> Iterator[pq.ParquetFile]:
    """The file, open; what pyarrow says of damage becomes one line that names it."""
    try:
        with tree.open(file) as opened, pq.ParquetFile(opened, pre_buffer=False) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        text = " ".join(str(error).split())[:200]
        raise ConvertError(
            f"{tree.shown(file)}: cannot be read as parquet with images ({text}); copy it again"
        ) from error


def _spilled(number: int) -> str:
    return f"{number:06d}.images"
