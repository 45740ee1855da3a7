"""Saving and restoring a run: what has its final name is whole, and any stage and world size reads it back.

Each rank writes its own fragments; no rank ever gathers the model. What lies on disk is described in
folder.py, the way back in restore.py.
"""

import copy
import json
import platform
import secrets
import shutil
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from viewmill.engine.agreement import gather_json
from viewmill.engine.checkpoints.behind import HostCopies, done, in_a_thread
from viewmill.engine.checkpoints.errors import CheckpointError, everywhere, on_first
from viewmill.engine.checkpoints.folder import (
    BEST_FILE,
    COMMIT_FILE,
    HINT_FILE,
    MANIFEST_FILE,
    Checkpoint,
    commit_line,
    newest,
)
from viewmill.engine.checkpoints.manifest import (
    BUFFERS_FILE,
    FileRecord,
    Manifest,
    Piece,
    rank_file,
)
from viewmill.engine.checkpoints.restore import restore
from viewmill.engine.checkpoints.retention import KEEP_TWO, LEFTOVER, Retention, grave, remove
from viewmill.engine.checkpoints.tensor_file import write_tensors, write_text
from viewmill.engine.fragments import owned
from viewmill.engine.partition import shape_of
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine
from viewmill.shards.durable import sync_folder

__all__ = ["Checkpoint", "CheckpointError", "Saving", "begin", "newest", "restore", "save"]


class Saving:
    """A checkpoint on its way: this rank's file is being written, and nothing has its final name yet.

    Attributes:
        step: the one that it is of.
    """

    def __init__(
        self,
        final: Path,
        aside: Path,
        world: World,
        written: "Future[dict[str, FileRecord]]",
        manifest: dict[str, Any],
        retention: Retention,
    ) -> None:
        self.step: int = manifest["step"]
        self._final, self._aside, self._world, self._written = final, aside, world, written
        self._manifest, self._retention = manifest, retention

    @property
    def is_written(self) -> bool:
        """Whether this rank has done its part, well or not."""
        return self._written.done()

    def finish(self) -> Path:
        """Waits for all parts, commits and gives the folder its name; every rank calls it.

        Raises:
            As `save`.
        """
        try:
            files = everywhere(self._world, self._written.result)
            mine = {name: record.model_dump() for name, record in files.items()}
            for found in gather_json(self._world, mine):
                self._manifest["files"] |= found
            on_first(self._world, lambda: _commit(self._aside, self._manifest))
            on_first(self._world, lambda: _publish(self._aside, self._final))
            if self._retention.best == self.step:
                on_first(self._world, lambda: _hint(self._final, BEST_FILE))
        except BaseException:
            if self._world.rank == 0:
                shutil.rmtree(self._aside, ignore_errors=True)
            raise
        on_first(self._world, lambda: self._retention.retire(self._final.parent, self.step))
        return self._final


def save(
    folder: Path | str,
    step: int,
    engine: ZeroEngine,
    world: World,
    state: dict[str, Any],
    buffers: dict[str, Tensor],
    *,
    retention: Retention = KEEP_TWO,
) -> Path:
    """Writes folder/step_NNNNNNNN and removes those that `retention` does not keep; every rank calls it.

    Killed at any moment, it leaves the earlier checkpoints as they were: the folder gets its name after all
    in it is on disk, and older ones go after the new one was read back.

    Args:
        folder: on a file system that all ranks share.
        state: JSON-able; rank 0's is written.
        buffers: the module's and the teacher's tensors, by name, equal on all ranks; rank 0's are written.

    Raises:
        CheckpointError: too little space, a failing disk, or `step` has a good checkpoint already; on every
            rank (RankError where another rank failed). Nothing new is left in `folder`, unless the disk fails
            after the new checkpoint is in place: it is then whole, and may be resumed from.
    """
    return begin(folder, step, engine, world, state, buffers, retention=retention).finish()


def begin(
    folder: Path | str,
    step: int,
    engine: ZeroEngine,
    world: World,
    state: dict[str, Any],
    buffers: dict[str, Tensor],
    *,
    retention: Retention = KEEP_TWO,
    copies: HostCopies | None = None,
) -> Saving:
    """As `save`, but a thread may go on writing until `finish`, which comes before the next one begins.

    Args:
        copies: takes what that thread writes, so that training goes on; None: all is written here and now.
    """
    folder = Path(folder)
    fragments = everywhere(world, lambda: owned(engine))
    sizes = gather_json(world, sum(4 * fragment.numel for fragment in fragments))
    aside = Path(on_first(world, lambda: str(_prepare(folder, step, sum(sizes), buffers))))
    pieces = [
        Piece(kind=fragment.kind, name=fragment.name, offset=fragment.offset, numel=fragment.numel)
        for fragment in fragments
    ]
    mine = {piece.key: one.tensor for piece, one in zip(pieces, fragments, strict=True)}
    own_buffers = buffers if world.rank == 0 else {}
    if copies is not None:
        mine = everywhere(world, lambda: copies.of("rank", mine))
        own_buffers = everywhere(world, lambda: copies.of("buffers", own_buffers))
    manifest = _manifest(step, engine, copy.deepcopy(state))

    def write() -> dict[str, FileRecord]:
        files = {rank_file(world.rank): _write_rank(aside / rank_file(world.rank), pieces, mine)}
        if world.rank == 0:
            size, sha256 = write_tensors(aside / BUFFERS_FILE, list(own_buffers.items()))
            files[BUFFERS_FILE] = FileRecord(size=size, sha256=sha256)
        return files

    written = in_a_thread(write) if copies is not None else done(write)
    return Saving(folder / folder_name(step), aside, world, written, manifest, retention)


def folder_name(step: int) -> str:
    return f"step_{step:08d}"


def _prepare(folder: Path, step: int, weight_bytes: int, buffers: dict[str, Tensor]) -> Path:
    """A new folder beside the final one. Refuses a step that is there and a disk that is too small."""
    final = folder / folder_name(step)
    folder.mkdir(parents=True, exist_ok=True)
    sync_folder(folder.parent)
    if final.exists():
        _refuse_good(final)
    for entry in folder.iterdir():
        if LEFTOVER.fullmatch(entry.name):
            remove(entry)
    needed = weight_bytes + sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())
    needed += needed // 20 + (1 << 20)  # names, manifest, whole blocks
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"{folder}: step {step} needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; the "
            "earlier checkpoints are kept. Free some space, or lower checkpoint.keep"
        )
    aside = folder / f".{folder_name(step)}.new-{secrets.token_hex(8)}"
    aside.mkdir()
    return aside


def _refuse_good(final: Path) -> None:
    """A damaged checkpoint makes way for a new one of its step; a good one is never written over."""
    try:
        Checkpoint.open(final)
    except CheckpointError:
        return
    raise CheckpointError(f"{final}: is there and verifies; resume from it, or move it away")


def _write_rank(path: Path, pieces: list[Piece], tensors: dict[str, Tensor]) -> FileRecord:
    """This rank's file, durable and read back; the tensors are the pieces' by their keys."""
    if not path.parent.is_dir():
        raise CheckpointError(
            f"{path.parent}: rank 0 made it and this rank does not see it; put the run folder on a "
            "file system that all ranks share"
        )
    size, sha256 = write_tensors(path, list(tensors.items()))
    return FileRecord(size=size, sha256=sha256, pieces=pieces)


def _manifest(step: int, engine: ZeroEngine, state: dict[str, Any]) -> dict[str, Any]:
    """MANIFEST.json but for the files. The same run gives the same bytes: no time, host or path."""
    parameters = {
        name: {"shape": list(shape_of(parameter)), "trained": parameter.requires_grad}
        for name, parameter in engine.module.named_parameters()
    }
    software = {name: version(name) for name in ("viewmill", "torch", "deepspeed")}
    return {
        "step": step,
        "world_size": engine.world.world_size,
        "stage": engine.stage,
        "parameters": parameters,
        "kinds": engine.state_kinds,
        "files": {},
        "state": state,
        "software": {"python": platform.python_version(), **software},
    }


def _commit(aside: Path, manifest: dict[str, Any]) -> None:
    """Rank 0, after every rank's file is on disk: the manifest, and last the commit."""
    text = _json(Manifest.model_validate(manifest))
    write_text(aside / MANIFEST_FILE, text)
    write_text(aside / COMMIT_FILE, commit_line(text.encode()).decode())
    sync_folder(aside)
    # As a reader will see it. The numbers were read back by the ranks that wrote them.
    Checkpoint.open(aside, verify=False)


def _json(manifest: Manifest) -> str:
    """Not pydantic's own JSON, which turns NaN into null and a set into a list."""
    try:
        return json.dumps(manifest.model_dump(), sort_keys=True, allow_nan=False) + "\n"
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the state to be saved is no JSON: {error}") from error


def _publish(aside: Path, final: Path) -> None:
    """Gives the complete folder its name. A damaged checkpoint of that name steps aside first."""
    if final.exists():
        final.rename(grave(final))
    aside.rename(final)
    sync_folder(final.parent)
    _hint(final, HINT_FILE)


def _hint(final: Path, name: str) -> None:
    """A file beside the checkpoints that holds the name of one."""
    hint = final.parent / f".{name}.new-{secrets.token_hex(8)}"
    write_text(hint, f"{final.name}\n")
    hint.replace(final.parent / name)
