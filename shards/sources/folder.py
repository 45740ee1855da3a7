"""A folder of images as a source: every file below it, in an order that no file system decides."""

import os
from pathlib import Path

from viewmill.shards.errors import ConvertError
from viewmill.shards.keys import key_of_source
from viewmill.shards.sources.inputs import Input, Listing, Place
from viewmill.shards.storage.sources import is_there, tree_at
from viewmill.shards.storage.tree import File


def list_folder(source: str | Path, class_level: int | None) -> Listing:
    """All inputs below a folder, sorted by the bytes of their paths.

    The class is the path of the folder that holds an image, or the folder at `class_level`.

    Links are followed. What is neither a file nor a folder, a link to nowhere, a folder inside itself and an
    unreadable folder are inputs with a fault, so that nothing is left out in silence.

    Raises:
        ConvertError: there is no such folder, or no regular file in it.
    """
    if not is_there(source):
        raise ConvertError(f"{source}: no such folder; give the folder that holds the images")
    tree = tree_at(source)
    try:
        files = tree.files()
    except FileNotFoundError:  # a remote one
        files = []
    except NotADirectoryError as error:
        raise ConvertError(f"{source}: not a folder; give the folder that holds the images") from error
    if all(file.fault for file in files):
        raise ConvertError(f"{source}: no regular file in this folder; give the folder that holds the images")
    files.sort(key=lambda file: os.fsencode(file.path))
    return Listing(tree, [_input(file, class_level) for file in files])


def _input(file: File, class_level: int | None) -> Input:
    path, (size, stamp), fault = file
    place = Place(path, 0, size, size, stamp)
    return Input(path, key_of_source(path), _class_of(path, class_level), place, fault)


def _class_of(path: str, class_level: int | None) -> str | None:
    folder = path.rpartition("/")[0]
    if class_level is None:
        return folder or None
    folders = folder.split("/") if folder else []
    return folders[class_level - 1] if 1 <= class_level <= len(folders) else None
