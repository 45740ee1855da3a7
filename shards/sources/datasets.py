"""A Viewmill data set as a source: re-sharded, re-shuffled, cut or re-encoded."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from viewmill.shards.containers.beton import is_raw
from viewmill.shards.durable import sha256_of
from viewmill.shards.errors import ShardError
from viewmill.shards.info import FILE_NAME
from viewmill.shards.manifest import Dataset
from viewmill.shards.raw import rgb_form
from viewmill.shards.sources.inputs import ENCODED, Input, Listing, Place
from viewmill.shards.storage.sources import tree_at
from viewmill.shards.storage.tree import for_each, has_file


def list_dataset(source: str | Path) -> Listing:
    """The samples of a data set in id order, with their keys, sources, classes and hashes.

    Raises:
        FileNotFoundError, ShardError: as `Dataset.open`, or a damaged manifest.
    """
    with Dataset.open(source) as dataset:
        kind = dataset.kind
        _refuse_damaged_manifest(dataset)
        classes = dataset.classes
        tree = tree_at(source)
        names = [shard.name for shard in dataset.info.shards]
        shards = list(zip(names, for_each(tree, tree.state, names), strict=True))
        rows = dataset.manifest
        texts = pq.read_table(dataset.path / "manifest.parquet", columns=["key", "source"])
    inputs = []
    rows_of_text = zip(texts.column("key").to_pylist(), texts.column("source").to_pylist(), strict=True)
    for (key, path), row in zip(rows_of_text, rows, strict=True):
        name, state = shards[int(row["shard"])]
        offset, size = int(row["offset"]), int(row["size"])
        place = Place(name, offset, size, *state, _form(kind, row), xxh64=int(row["xxh64"]))
        label = int(row["label"])
        inputs.append(Input(path, key, None if label < 0 else classes[label], place))
    return Listing(tree, inputs, tuple(classes))


def _form(kind: str, row: np.void) -> str:
    """What `Place.form` says of a stored image."""
    width, height = int(row["width"]), int(row["height"])
    raw = kind == "ffcv" and is_raw(int(row["size"]), width, height)
    return rgb_form(width, height) if raw else ENCODED


def _refuse_damaged_manifest(dataset: Dataset) -> None:
    # Nothing guards a single key or label: a flipped one would go into the new data set, right by its hashes.
    for name in ("manifest.bin", "manifest.parquet"):
        if sha256_of(dataset.path / name) != dataset.info.file(name).sha256:
            raise ShardError(
                f"{dataset.path / name}: is not what dataset.json states; run: viewmill verify {dataset.path}"
                f"{' --repair' if name == 'manifest.bin' else ''}"
            )


def is_dataset(source: str | Path) -> bool:
    """Whether a folder is a data set."""
    return has_file(tree_at(source), FILE_NAME)
