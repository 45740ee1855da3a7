"""Which kind of source a path is, and its inputs."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viewmill.shards.errors import ConvertError
from viewmill.shards.sources.binaries import FILES, list_binaries
from viewmill.shards.sources.datasets import is_dataset, list_dataset
from viewmill.shards.sources.folder import list_folder
from viewmill.shards.sources.inputs import Listing
from viewmill.shards.sources.labels import with_labels
from viewmill.shards.sources.parquet import list_parquet
from viewmill.shards.sources.tables import SUFFIXES, list_table
from viewmill.shards.sources.tars import list_tars
from viewmill.shards.storage.sources import named_source, tree_at
from viewmill.shards.storage.urls import split_url, suffix_of


@dataclass(frozen=True)
class SourceOptions:
    """How a source is read; a field of another kind of source is refused.

    kind: one of `KINDS`, or None for what the path looks like. class_level: of a folder; the depth of the one
    that is the class (1: just below the source; 0: no classes), None: the whole path of the folder that holds
    the image. subset: of CIFAR's and STL-10's folders. root, path_column: of a table. image_column: of
    parquet. label_column: of both. labels: a file with the classes, of folders and tars.
    """

    kind: str | None = None
    class_level: int | None = None
    subset: str | None = None
    root: str | None = None
    path_column: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    labels: str | None = None

    def without_paths(self) -> dict[str, Any]:
        """The fields that name no path of a machine, which may be called otherwise on another."""
        return {name: value for name, value in asdict(self).items() if name not in ("root", "labels")}

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"a source is one of {', '.join(KINDS)}, got '{self.kind}'")
        if self.class_level is not None and self.class_level < 0:
            raise ValueError(f"the class level is 0 (no classes) or a folder's depth, got {self.class_level}")


_READERS: dict[str, Callable[[str | Path, SourceOptions], Listing]] = {
    "folder": lambda source, options: list_folder(source, options.class_level),
    "table": lambda source, options: list_table(
        source,
        root=options.root,
        path_column=options.path_column,
        label_column=options.label_column,
    ),
    "tar": lambda source, options: list_tars(source),
    "parquet": lambda source, options: list_parquet(
        source, image_column=options.image_column, label_column=options.label_column
    ),
    "binary": lambda source, options: list_binaries(source, options.subset),
    "dataset": lambda source, options: list_dataset(source),
}
KINDS = tuple(_READERS)
_BELONGS_TO = {
    "class_level": ("folder",),
    "subset": ("binary",),
    "root": ("table",),
    "path_column": ("table",),
    "image_column": ("parquet",),
    "label_column": ("table", "parquet"),
    "labels": ("folder", "tar"),
}


def kind_of(source: str | Path) -> str:
    """What a path or a URL looks like: its ending, or what lies directly in the folder.

    Raises:
        ValueError: a URL that is not read.
    """
    named = named_source(source)
    suffix = named.suffix.lower() if isinstance(named, Path) else suffix_of(named)
    if isinstance(named, Path) and named.is_dir():
        return _kind_of_folder(named)
    if suffix in SUFFIXES:
        return "table"
    if suffix in (".tar", ".parquet"):
        return suffix[1:]
    if isinstance(named, Path):
        return "binary" if named.name in FILES and named.is_file() else "folder"
    return "binary" if split_url(named)[1] in FILES else _kind_of_folder(named)


def _kind_of_folder(folder: str | Path) -> str:
    if is_dataset(folder):
        return "dataset"
    try:
        names = tree_at(folder).names()
    except FileNotFoundError:  # a remote one: its reader says what is missing
        return "folder"
    if names & set(FILES):
        return "binary"
    for ending, kind in ((".tar", "tar"), (".parquet", "parquet")):
        if names and all(name.endswith(ending) for name in names):
            return kind
    return "folder"


def list_source(source: str | Path, options: SourceOptions) -> Listing:
    """All inputs of a source.

    Raises:
        ConvertError: the source is not usable, or an option belongs to another kind of source.
    """
    kind = options.kind or kind_of(source)
    for name, owners in _BELONGS_TO.items():
        if getattr(options, name) is not None and kind not in owners:
            flag, owner = "--" + name.replace("_", "-"), " or ".join(owners)
            raise ConvertError(f"{source}: {flag} is for {owner}, and this is read as {kind}; leave it out")
    listing = _READERS[kind](source, options)
    return listing if options.labels is None else with_labels(listing, Path(options.labels))
