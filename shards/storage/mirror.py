"""What describes a data set at a URL, kept in the cache: dataset.json and the manifest's files."""

import hashlib
from pathlib import Path

from viewmill.shards.durable import written_whole
from viewmill.shards.errors import ShardError
from viewmill.shards.info import FILE_NAME, MANIFEST_FILES, MAX_JSON_BYTES, DataSetInfo, FileInfo, read_info
from viewmill.shards.storage.cache import Cache, locked
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.sources import named_source

_BLOCK = 16 << 20


def mirrored(tree: RemoteTree, cache: Cache) -> tuple[Path, DataSetInfo]:
    """The folder with the data set's description and manifest, fetched once and checked; and what it says.

    The folder is named by the SHA-256 of dataset.json, which states those of the other files.

    Raises:
        FileNotFoundError: no data set at this URL.
        ShardError: a file that is not what dataset.json states; StorageError: the store does not answer.
    """
    text = _description(tree)
    folder = cache.folder / "datasets" / hashlib.sha256(text).hexdigest()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(folder / "lock"):  # so that of the ranks of a machine one fetches
        if not (folder / FILE_NAME).exists():
            with written_whole(folder / FILE_NAME) as file:
                file.write(text)
        try:
            info = read_info(folder)
        except ShardError as error:
            raise ShardError(str(error).replace(str(folder), tree.base)) from error
        for name in MANIFEST_FILES:
            _fetch(tree, folder, info.file(name))
    return folder, info


def read_info_at(source: str | Path) -> DataSetInfo:
    """dataset.json of a data set at a path or a URL; errors as `read_info`, and those of the store."""
    named = named_source(source)
    return read_info(named) if isinstance(named, Path) else mirrored(RemoteTree(named), Cache())[1]


def _description(tree: RemoteTree) -> bytes:
    try:
        size = tree.state(FILE_NAME).size
        if size > MAX_JSON_BYTES:
            raise ShardError(
                f"{tree.shown(FILE_NAME)}: {size} bytes, over {MAX_JSON_BYTES}; no data set's description "
                "is so long"
            )
        return tree.range(FILE_NAME, 0, size)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{tree.base}: no data set here ({FILE_NAME} is missing); copy one there, of viewmill convert"
        ) from error


def _fetch(tree: RemoteTree, folder: Path, wanted: FileInfo) -> None:
    path = folder / wanted.name
    if path.exists() and path.stat().st_size == wanted.bytes:
        return  # it got its name when it was whole and checked
    digest = hashlib.sha256()
    try:
        with written_whole(path) as file:
            for at in range(0, wanted.bytes, _BLOCK):
                data = tree.range(wanted.name, at, min(_BLOCK, wanted.bytes - at))
                digest.update(data)
                file.write(data)
            if digest.hexdigest() != wanted.sha256:
                raise ShardError(
                    f"{tree.shown(wanted.name)}: has SHA-256 {digest.hexdigest()[:16]}..., dataset.json says "
                    f"{wanted.sha256[:16]}...; copy the data set there again"
                )
    except FileNotFoundError as error:
        raise ShardError(
            f"{tree.shown(wanted.name)}: missing, though dataset.json lists it; copy it there again"
        ) from error
