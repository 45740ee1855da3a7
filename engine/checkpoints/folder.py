"""Checkpoints on disk, seen by who reads them: nothing is used before it is checked.

checkpoints/
  latest                     name of the newest: a hint for people
  best                       name of the best by the evaluations of a training, where there are any
  step_00000120/
    rank_0.safetensors ...   each rank's fragments of the float32 weights and of the optimiser state
    buffers.safetensors      BatchNorm statistics and the like, equal on all ranks
    MANIFEST.json            what the files hold, their hashes, and the state of the run
    COMMIT                   sha256 of MANIFEST.json; written last
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.checkpoints.manifest import BUFFERS_FILE, Manifest, Piece
from viewmill.engine.checkpoints.tensor_file import read_bytes, regular_size
from viewmill.engine.fragments import WEIGHT
from viewmill.shards.durable import sha256_of

MANIFEST_FILE, COMMIT_FILE, HINT_FILE, BEST_FILE = "MANIFEST.json", "COMMIT", "latest", "best"
MAX_MANIFEST_BYTES = 1 << 28
STEP_FOLDER = re.compile(r"step_(\d{8,15})")


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, readable whole or in part, whatever stage and world size wrote it."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str, verify: bool = True) -> "Checkpoint":
        """Opens a checkpoint whose manifest is committed and whose files have the sizes that it says.

        Args:
            verify: hash every byte too. Without it, only for one that was just verified: a flipped bit in
                the numbers would go unseen.

        Raises:
            CheckpointError: it is not complete; the message says which file and why.
        """
        path = Path(path)
        checkpoint = cls(path, _read_manifest(path))
        checkpoint._check_sizes()
        if verify:
            checkpoint._check_hashes()
        return checkpoint

    @property
    def step(self) -> int:
        """Optimiser steps done when it was written."""
        return self.manifest.step

    @property
    def state(self) -> dict[str, Any]:
        """What the trainer handed to `save`."""
        return self.manifest.state

    @property
    def world_size(self) -> int:
        return self.manifest.world_size

    @property
    def stage(self) -> int:
        return self.manifest.stage

    def read_full(self, kind: str = WEIGHT) -> dict[str, Tensor]:
        """Every parameter's weights (or another kind, such as "exp_avg") in its own shape, float32.

        A kind that is one number a parameter gives 0-dim tensors. Buffers are not among them: `buffers()`.

        Raises:
            CheckpointError: there is no such kind, or a file cannot be read.
        """
        if kind != WEIGHT and kind not in self.manifest.kinds:
            raise CheckpointError(f"{self.path}: holds no {kind}, only {[WEIGHT, *self.manifest.kinds]}")
        full = {}
        for (found, name), numel in self._lengths.items():
            if found == kind:
                is_scalar = self.manifest.kinds.get(kind) == "scalar"
                shape = [] if is_scalar else self.manifest.parameters[name].shape
                full[name] = self.read(kind, name, 0, numel).reshape(shape)
        return full

    def read(self, kind: str, name: str, offset: int, numel: int) -> Tensor:
        """The numbers [offset, offset + numel) of a flat parameter; only the files that hold them are read.

        Raises:
            CheckpointError: there are no such numbers, or a file cannot be read.
        """
        length = self._lengths.get((kind, name), 0)
        if not 0 <= offset <= offset + numel <= length:
            raise CheckpointError(
                f"{self.path}: {kind} of {name} has {length} numbers, not [{offset}, {offset + numel})"
            )
        values = torch.empty(numel, dtype=torch.float32)
        for file, piece in self._pieces[kind, name]:
            low, high = max(offset, piece.offset), min(offset + numel, piece.offset + piece.numel)
            if low < high:
                part = self._slice(file, piece, low - piece.offset, high - piece.offset)
                values[low - offset : high - offset] = part
        return values

    def buffers(self) -> dict[str, Tensor]:
        """The module's buffers by name, in the type in which they were saved.

        Raises:
            CheckpointError: the file cannot be read.
        """
        file = self._opened(BUFFERS_FILE)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @cached_property
    def _lengths(self) -> dict[tuple[str, str], int]:
        return self.manifest.expected()

    @cached_property
    def _pieces(self) -> dict[tuple[str, str], list[tuple[str, Piece]]]:
        """Where the stretches of each kind of each parameter lie: (file, piece)."""
        pieces: dict[tuple[str, str], list[tuple[str, Piece]]] = {}
        for file, record in self.manifest.files.items():
            for piece in record.pieces:
                pieces.setdefault((piece.kind, piece.name), []).append((file, piece))
        return pieces

    def _slice(self, file: str, piece: Piece, start: int, stop: int) -> Tensor:
        opened = self._opened(file)
        if piece.key not in opened.keys():  # noqa: SIM118
            raise CheckpointError(f"{self.path / file}: lacks {piece.key}, which the manifest lists")
        stored = opened.get_slice(piece.key)
        found = (stored.get_shape(), stored.get_dtype())
        if found != ([piece.numel], "F32"):
            raise CheckpointError(
                f"{self.path / file}: {piece.key} is {found}, not {piece.numel} numbers F32"
            )
        return stored[start:stop]

    def _opened(self, file: str) -> Any:
        """The file's reader; it stays open with the checkpoint, since each opening reads the whole header."""
        if file not in self._readers:
            try:
                self._readers[file] = safe_open(self.path / file, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{self.path / file}: {error}") from error
        return self._readers[file]

    @cached_property
    def _readers(self) -> dict[str, Any]:
        return {}

    def _check_sizes(self) -> None:
        for name, record in self.manifest.files.items():
            try:
                size = regular_size(self.path / name)
            except OSError as error:
                raise CheckpointError(f"{self.path / name}: {error.strerror or error}") from error
            if size != record.size:
                raise CheckpointError(f"{self.path / name}: has {size} bytes, {record.size} were written")

    def _check_hashes(self) -> None:
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(self._check_hash, self.manifest.files):
                pass

    def _check_hash(self, name: str) -> None:
        try:
            found = sha256_of(self.path / name)
        except OSError as error:
            raise CheckpointError(f"{self.path / name}: {error.strerror or error}") from error
        expected = self.manifest.files[name].sha256
        if found != expected:
            raise CheckpointError(f"{self.path / name}: has sha256 {found}, {expected} was written")


def _read_manifest(path: Path) -> Manifest:
    """The committed manifest of a checkpoint, complete in itself."""
    try:
        text = read_bytes(path / MANIFEST_FILE, MAX_MANIFEST_BYTES)
        commit = read_bytes(path / COMMIT_FILE, limit=65)
    except OSError as error:
        where = error.filename or path
        raise CheckpointError(f"{where}: {error.strerror or error}; it was never completed") from error
    if commit != commit_line(text):
        raise CheckpointError(f"{path / MANIFEST_FILE}: its hash is not the one in {COMMIT_FILE}")
    try:
        version = json.loads(text).get("version")
        if version != Manifest.model_fields["version"].default:
            raise CheckpointError(f"{path}: format version {version}; use the Viewmill that wrote it")
        manifest = Manifest.model_validate_json(text)
    except (ValueError, AttributeError, RecursionError) as error:
        reason = _first(error) if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(f"{path / MANIFEST_FILE}: not a checkpoint's manifest: {reason}") from error
    for fault in manifest.faults():
        raise CheckpointError(f"{path / MANIFEST_FILE}: {fault}")
    return manifest


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def commit_line(manifest: bytes) -> bytes:
    """What COMMIT holds."""
    return f"{hashlib.sha256(manifest).hexdigest()}\n".encode()


def newest(folder: Path | str) -> tuple[Path, list[str]]:
    """The newest checkpoint that verifies, byte for byte, and why each newer one was passed over.

    Raises:
        CheckpointError: none verifies; the message gives every reason. Never "start from step 0".
    """
    folder = Path(folder)
    reasons = list(_lost(folder))
    for path in candidates(folder):
        try:
            Checkpoint.open(path)
        except CheckpointError as error:
            reasons.append(str(error))
        else:
            return path, reasons
    raise CheckpointError(
        f"{folder}: no usable checkpoint ({'; '.join(reasons) or 'it holds none'}); "
        "restore the folder from a copy, or train into a new run folder"
    )


def candidates(folder: Path) -> list[Path]:
    """The folders that may be checkpoints, newest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _lost(folder: Path) -> Iterator[str]:
    """A reason, where the hint names a checkpoint that is gone. A torn hint is no harm."""
    try:
        name = read_bytes(folder / HINT_FILE, limit=64).decode(errors="replace").strip()
    except OSError:
        return
    if STEP_FOLDER.fullmatch(name) and not (folder / name).exists():
        yield f"{folder / name}: named by {HINT_FILE}, and not there"
