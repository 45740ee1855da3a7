"""From what a user names, a path or a URL, to a tree."""

from pathlib import Path
from typing import NamedTuple

from viewmill.shards.storage.local import LocalTree
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.tree import Tree, has_file
from viewmill.shards.storage.urls import is_url, local_path, split_url


class Located(NamedTuple):
    """A source in its tree; file: its name there, or None where the source is the whole tree, a folder."""

    tree: Tree
    file: str | None


def named_source(source: str | Path) -> str | Path:
    """A URL as text, or a path; file:// is a path.

    Raises:
        ValueError: a URL that is not read.
    """
    if isinstance(source, Path) or not is_url(source):
        return Path(source)
    local = local_path(source)
    return source.rstrip("/") if local is None else Path(local)


def tree_at(folder: str | Path) -> Tree:
    """The tree below a folder or a prefix of URLs, whether there is one or not."""
    named = named_source(folder)
    return RemoteTree(named) if isinstance(named, str) else LocalTree(str(named))


def located(source: str | Path) -> Located:
    """The source as a file in the tree of its folder, or as a tree, which may be empty."""
    named = named_source(source)
    if isinstance(named, Path):
        if named.is_file():
            return Located(LocalTree(str(named.parent)), named.name)
        return Located(LocalTree(str(named)), None)
    folder, file = split_url(named)
    tree = RemoteTree(folder)
    return Located(tree, file) if file and has_file(tree, file) else Located(RemoteTree(named), None)


def is_there(source: str | Path) -> bool:
    """Whether a local source exists; a remote folder is known only by what is found in it."""
    named = named_source(source)
    return isinstance(named, str) or named.exists()
