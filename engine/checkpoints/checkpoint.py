"""Saving and restoring a run: what has its final name is whole, and any stage and world size reads it back.

Each rank writes its own fragments; no rank ever gathers the model. What lies on disk is described in
folder.py, the way back in restore.py.
"""

import json
import platform
import re
import secrets
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor
from viewmill.engine.agreement import gather_json
from viewmill.engine.checkpoints.errors import CheckpointError, everywhere, on_first
from viewmill.engine.checkpoints.folder import (
    COMMIT_FILE,
    HINT_FILE,
    MANIFEST_FILE,
    Checkpoint,
    candidates,
    commit_line,
    newest,
    step_of,
)
from viewmill.engine.checkpoints.manifest import (
    BUFFERS_FILE,
    FileRecord,
    Manifest,
    Piece,
    rank_file,
)
from viewmill.engine.checkpoints.restore import restore
from viewmill.engine.checkpoints.tensor_file import write_tensors, write_text
from viewmill.engine.fragments import Fragment, owned
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine
from viewmill.shards.durable import sync_folder

__all__ = ["Checkpoint", "CheckpointError", "newest", "restore", "save"]

# What a killed save or deletion leaves behind: never read, and cleared by the next save.
LEFTOVER = re.compile(r"\.(step_\d{8,15}|latest)\.(new|old)-[0-9a-f]{16}")


def save(
    folder: Path | str,
    step: int,
    engine: ZeroEngine,
    world: World,
    state: dict[str, Any],
    buffers: dict[str, Tensor],
    *,
    keep: int = 2,
) -> Path:
    """Writes folder/step_NNNNNNNN and removes all but the newest `keep`; every rank calls it.

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
    folder = Path(folder)
    fragments = everywhere(world, lambda: owned(engine))
    sizes = gather_json(world, sum(4 * fragment.numel for fragment in fragments))
    aside = Path(on_first(world, lambda: str(_prepare(folder, step, sum(sizes), buffers))))
    try:
        record = everywhere(world, lambda: _write_rank(aside / rank_file(world.rank), fragments))
        files = {rank_file(rank): saved for rank, saved in enumerate(gather_json(world, record.model_dump()))}
        on_first(world, lambda: _commit(aside, _manifest(step, engine, files, state), buffers))
        on_first(world, lambda: _publish(aside, folder / folder_name(step)))
    except BaseException:
        if world.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        raise
    on_first(world, lambda: _retire(folder, step, keep))
    return folder / folder_name(step)


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
            _remove(entry)
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


def _write_rank(path: Path, fragments: list[Fragment]) -> FileRecord:
    """This rank's file, durable and read back."""
    pieces = [
        Piece(kind=fragment.kind, name=fragment.name, offset=fragment.offset, numel=fragment.numel)
        for fragment in fragments
    ]
    if not path.parent.is_dir():
        raise CheckpointError(
            f"{path.parent}: rank 0 made it and this rank does not see it; put the run folder on a "
            "file system that all ranks share"
        )
    tensors = [(piece.key, fragment.tensor) for piece, fragment in zip(pieces, fragments, strict=True)]
    size, sha256 = write_tensors(path, tensors)
    return FileRecord(size=size, sha256=sha256, pieces=pieces)


def _manifest(step: int, engine: ZeroEngine, files: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    """MANIFEST.json but for the buffers' file. The same run gives the same bytes: no time, host or path."""
    parameters = {
        name: {"shape": list(parameter.shape), "trained": parameter.requires_grad}
        for name, parameter in engine.module.named_parameters()
    }
    software = {name: version(name) for name in ("viewmill", "torch", "deepspeed")}
    return {
        "step": step,
        "world_size": engine.world.world_size,
        "stage": engine.stage,
        "parameters": parameters,
        "kinds": engine.state_kinds,
        "files": files,
        "state": state,
        "software": {"python": platform.python_version(), **software},
    }


def _commit(aside: Path, manifest: dict[str, Any], buffers: dict[str, Tensor]) -> None:
    """Rank 0, after every rank's file is on disk: buffers, manifest, and last the commit."""
    size, sha256 = write_tensors(aside / BUFFERS_FILE, list(buffers.items()))
    manifest["files"][BUFFERS_FILE] = {"size": size, "sha256": sha256}
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
        final.rename(_grave(final))
    aside.rename(final)
    sync_folder(final.parent)
    hint = final.parent / f".{HINT_FILE}.new-{secrets.token_hex(8)}"
    write_text(hint, f"{final.name}\n")
    hint.replace(final.parent / HINT_FILE)


def _retire(folder: Path, step: int, keep: int) -> None:
    """Removes the checkpoints before the newest `keep` complete ones up to `step`."""
    complete = 0
    for path in candidates(folder):
        if step_of(path) > step:
            continue  # of a future that was given up when an older one was resumed
        if complete < keep:
            complete += _is_complete(path)
        else:
            _remove(path)


def _is_complete(path: Path) -> bool:
    try:
        Checkpoint.open(path, verify=False)
    except CheckpointError:
        return False
    return True


def _remove(path: Path) -> None:
    """Deletes a folder that no reader sees half deleted."""
    if not LEFTOVER.fullmatch(path.name):
        path = path.rename(_grave(path))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _grave(path: Path) -> Path:
    return path.with_name(f".{path.name}.old-{secrets.token_hex(8)}")
