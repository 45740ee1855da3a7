"""Tensors computed from images once, kept beside the evaluation under a hash of all that they depend on."""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from viewmill.engine.checkpoints.tensor_file import write_tensors, write_text
from viewmill.shards.durable import sha256_of

VERSION = 1  # of the keys: whatever changes a cached number without changing its key raises it

Key = dict[str, Any]


class TensorCache:
    """A folder of tensors by key. One that is missing, or not what was written, is computed again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, key: Key) -> bool:
        """Whether the tensor is there and its bytes are those that were written."""
        tensors, note = self._paths(key)
        try:
            written = json.loads(note.read_text(encoding="utf-8"))
            return bool(written == {"key": _whole(key), "sha256": sha256_of(tensors)})
        except (OSError, ValueError, RecursionError):
            return False

    def load(self, key: Key) -> Tensor:
        """The tensor of a key that `has` found.

        Raises:
            RuntimeError: it cannot be read here.
        """
        path = self._paths(key)[0]
        try:
            return load_file(path)["rows"]
        except (OSError, SafetensorError, KeyError) as error:
            raise RuntimeError(
                f"{path}: {error}; remove the folder {self.folder}, it is made anew, and let all ranks see it"
            ) from error

    def store(self, key: Key, rows: Tensor) -> None:
        """Keeps a tensor; called by one rank. Killed at any moment, it leaves nothing that `has` accepts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors, note = self._paths(key)
        mark = f".new-{secrets.token_hex(8)}"
        aside = [path.with_name(path.name + mark) for path in (tensors, note)]
        try:
            _, sha256 = write_tensors(aside[0], [("rows", rows)])
            write_text(aside[1], json.dumps({"key": _whole(key), "sha256": sha256}, indent=1) + "\n")
            aside[0].replace(tensors)
            aside[1].replace(note)
        finally:
            for path in aside:
                path.unlink(missing_ok=True)

    def remove(self, key: Key) -> None:
        """Forgets a tensor; called by one rank. None of the key is no error."""
        for path in reversed(self._paths(key)):
            path.unlink(missing_ok=True)

    def _paths(self, key: Key) -> tuple[Path, Path]:
        text = json.dumps(_whole(key), sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors", self.folder / f"{name}.json"


def _whole(key: Key) -> Key:
    # Through JSON: a tuple comes back from a file as a list.
    whole: Key = json.loads(json.dumps({"version": VERSION, **key}))
    return whole
