"""The workspace of an unfinished conversion: a plan, and one record for each shard that is done.

DATASET/.convert/lock               held while a conversion runs; the system frees it when the process dies
DATASET/.convert/plan.json          the fingerprint and the options of the plan
DATASET/.convert/000000.tar .idx    a finished shard, until it is published under its name
DATASET/.convert/000000.json        its record, written last: what is stored where, what is quarantined
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.durable import TEMPORARY, sync_folder, written_whole
from viewmill.shards.errors import ConvertError
from viewmill.shards.plan import Plan

FOLDER = ".convert"
_PLAN = "plan.json"
_LOCK = "lock"


class SampleRow(NamedTuple):
    """A stored image: its position in the plan's shard, and its columns of the manifest."""

    position: int
    offset: int
    size: int
    ext: str
    width: int
    height: int
    xxh64: int
    transcoded: bool


class QuarantinedRow(NamedTuple):
    """An input of the shard that was not written; xxh64 is None where its bytes could not be read."""

    position: int
    reason: str
    xxh64: int | None


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: its tar's bytes and SHA-256, and what became of each of its inputs."""

    bytes: int
    sha256: str
    samples: tuple[SampleRow, ...]
    quarantined: tuple[QuarantinedRow, ...]

    def to_json(self) -> str:
        return json.dumps([self.bytes, self.sha256, self.samples, self.quarantined])


def read_record(workspace: Path, number: int) -> ShardRecord | None:
    """The record of a shard, None while it is not done."""
    path = record_path(workspace, number)
    if not path.exists():
        return None
    num_bytes, sha256, samples, quarantined = json.loads(path.read_text())
    return ShardRecord(
        num_bytes,
        sha256,
        tuple(SampleRow(*row) for row in samples),
        tuple(QuarantinedRow(*row) for row in quarantined),
    )


def record_path(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.json"


def staged_tar(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.tar"


def staged_index(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.idx"


@contextmanager
def workspace_of(dataset: Path, plan: Plan) -> Iterator[Path]:
    """The workspace for this plan, new or left by a conversion that was killed; locked while in use.

    Raises:
        ConvertError: the destination holds something else, an unfinished conversion of another plan, or a
            conversion that is running.
    """
    _refuse_foreign_files(dataset)
    workspace = dataset / FOLDER
    workspace.mkdir(parents=True, exist_ok=True)
    with _locked(workspace):
        _refuse_another_plan(dataset, plan)
        for leftover in workspace.glob(f"*{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        if not (workspace / _PLAN).exists():
            with written_whole(workspace / _PLAN) as file:
                file.write(json.dumps({"plan": plan.fingerprint, "options": asdict(plan.options)}).encode())
        yield workspace


def remove_workspace(workspace: Path) -> None:
    """Removes the workspace; the plan goes last, so that a rerun after a crash knows what it finds."""
    for path in sorted(workspace.iterdir(), key=lambda path: path.name == _PLAN):
        path.unlink()
    sync_folder(workspace)
    shutil.rmtree(workspace)
    sync_folder(workspace.parent)


def _refuse_foreign_files(dataset: Path) -> None:
    if dataset.exists() and not dataset.is_dir():
        raise ConvertError(f"{dataset}: is a file; give a new or empty folder for the data set")
    names = {path.name for path in dataset.iterdir()} if dataset.exists() else set()
    if names - {FOLDER} and not (dataset / FOLDER / _PLAN).is_file():
        held = "holds a finished data set" if "dataset.json" in names else "is not empty"
        raise ConvertError(
            f"{dataset}: {held}, and no unfinished conversion; give a new folder or empty this one"
        )


def _refuse_another_plan(dataset: Path, plan: Plan) -> None:
    path = dataset / FOLDER / _PLAN
    if not path.exists():
        return
    there = json.loads(path.read_text())
    if there["plan"] == plan.fingerprint:
        return
    options = asdict(plan.options)
    changed = [f"{name} {there['options'].get(name)!r} there, {options[name]!r} now" for name in options]
    changed = [
        text
        for name, text in zip(options, changed, strict=True)
        if there["options"].get(name) != options[name]
    ]
    difference = "; ".join(changed) or "the source's files have changed since"
    raise ConvertError(
        f"{dataset}: holds an unfinished conversion of another plan ({difference}); "
        "run it with the same source and options, or delete the folder"
    )


@contextmanager
def _locked(workspace: Path) -> Iterator[None]:
    descriptor = os.open(workspace / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConvertError(
                f"{workspace.parent}: another conversion is writing here; wait for it"
            ) from error
        yield
    finally:
        os.close(descriptor)
