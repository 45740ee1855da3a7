"""The workspace of an unfinished conversion: a plan, and one record for each shard that is done.

- DATASET/.convert.json: the plan's fingerprint and options. Locked while a conversion runs (the system frees
  the lock of a dead process), and the last file to go.
- DATASET/.convert/000000.tar and .idx, or .beton: a finished shard, until it is published under its name.
- DATASET/.convert/000000.refused: a tar of the bytes that were refused, where they are kept.
- DATASET/.convert/spill/: images of a source that has no byte ranges (parquet), as plain files.
- DATASET/.convert/000000.json: its record, written last: what is stored where, what is quarantined.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from viewmill.shards.conversion.parts import Part
from viewmill.shards.conversion.plan import Plan
from viewmill.shards.durable import TEMPORARY, sync_folder
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import KINDS, UNFINISHED

FOLDER = ".convert"
PLAN = UNFINISHED
_PATIENCE_S = 10.0  # for the part that is writing the plan


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


class Samples(NamedTuple):
    """The columns of `SampleRow`, all of one length."""

    position: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    ext: tuple[str, ...]
    width: tuple[int, ...]
    height: tuple[int, ...]
    xxh64: tuple[int, ...]
    transcoded: tuple[bool, ...]

    @classmethod
    def of_rows(cls, rows: list[SampleRow]) -> "Samples":
        return cls(*(zip(*rows, strict=True) if rows else [()] * len(cls._fields)))


class QuarantinedRow(NamedTuple):
    """An input of the shard that was not written; xxh64 is None where its bytes could not be read."""

    position: int
    reason: str
    xxh64: int | None


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: its bytes and SHA-256, and what became of each of its inputs."""

    bytes: int
    sha256: str
    samples: Samples
    quarantined: tuple[QuarantinedRow, ...]

    @property
    def num_samples(self) -> int:
        return len(self.samples.position)

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
        Samples(*map(tuple, samples)),
        tuple(QuarantinedRow(*row) for row in quarantined),
    )


def record_path(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.json"


def staged_refused(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.refused"


def spill_folder(workspace: Path) -> Path:
    return workspace / "spill"


def staged_shard(workspace: Path, number: int, kind: str) -> list[Path]:
    """The files of a shard in the order of `info.KINDS`: the shard itself, then its index if it has one."""
    return [workspace / f"{number:06d}{ending}" for ending in KINDS[kind]]


def staged_index(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.idx"


@contextmanager
def workspace_of(
    dataset: Path, plan: Plan, part: Part | None = None, beside: frozenset[str] | None = None
) -> Iterator[Path]:
    """The workspace for this plan, new or left by a conversion that was killed; locked while in use.

    Parts share it with each other, and with nothing else.

    Args:
        beside: the names that the conversion writes, where it works in a folder that holds other files too
            (which stay untouched); None: the folder is its alone.

    Raises:
        ConvertError: the destination holds something else, an unfinished conversion of another plan, or a
            conversion that is running.
    """
    _refuse_foreign_files(dataset, beside)
    workspace = dataset / FOLDER
    dataset.mkdir(parents=True, exist_ok=True)
    if part is None:
        with _locked(dataset) as lock:
            _take_up(dataset, plan, lock, beside)
            workspace.mkdir(exist_ok=True)
            for leftover in [*dataset.glob(f"*{TEMPORARY}*"), *workspace.rglob(f"*{TEMPORARY}*")]:
                if beside is None or leftover.name.partition(TEMPORARY)[0] in beside:
                    leftover.unlink(missing_ok=True)
            yield workspace
        return
    with _shared(dataset, plan):
        workspace.mkdir(exist_ok=True)
        with _lock_of_part(workspace, part):
            yield workspace


def remove_workspace(workspace: Path) -> None:
    """Removes all traces of a conversion; the plan goes last, so that a rerun after a crash goes on here."""
    shutil.rmtree(workspace)
    sync_folder(workspace.parent)
    (workspace.parent / PLAN).unlink()
    sync_folder(workspace.parent)


def _names_in(dataset: Path, beside: frozenset[str] | None) -> set[str]:
    names = {path.name for path in dataset.iterdir()}
    return names if beside is None else names & beside


def _refuse_foreign_files(dataset: Path, beside: frozenset[str] | None) -> None:
    if dataset.exists() and not dataset.is_dir():
        raise ConvertError(f"{dataset}: is a file; give a new or empty folder for the data set")
    names = _names_in(dataset, beside) if dataset.exists() else set()
    if names and PLAN not in names:
        if beside is not None:
            raise ConvertError(
                f"{dataset}: holds {', '.join(sorted(names)[:3])}, of no unfinished conversion; move what is "
                "not a tar away, or give another DATASET"
            )
        held = "holds a finished data set" if "dataset.json" in names else "is not empty"
        raise ConvertError(
            f"{dataset}: {held}, and no unfinished conversion; give a new folder or empty this one"
        )


@contextmanager
def _locked(dataset: Path) -> Iterator[int]:
    """A descriptor of the plan's file, locked; the lock ends with the process at the latest."""
    descriptor = os.open(dataset / PLAN, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConvertError(f"{dataset}: another conversion is writing here; wait for its end") from error
        if not (dataset / PLAN).exists():
            raise ConvertError(f"{dataset}: another conversion has just finished here; give a new folder")
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _shared(dataset: Path, plan: Plan) -> Iterator[None]:
    """The plan's file, locked so that other parts may run and nothing else may."""
    descriptor = os.open(dataset / PLAN, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while not _lock_to_share(dataset, plan, descriptor):
            if time.monotonic() > deadline:
                raise ConvertError(f"{dataset}: another conversion is writing here; wait for its end")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _lock_to_share(dataset: Path, plan: Plan, descriptor: int) -> bool:
    """Whether the shared lock is held now; the first part to come writes the plan, alone."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        if not (dataset / PLAN).exists():
            raise ConvertError(f"{dataset}: another conversion has just finished here; give a new folder")
        _take_up(dataset, plan, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if _plan_in(dataset / PLAN) is None:
        return False  # another part is about to write it
    _take_up(dataset, plan, descriptor)
    return True


@contextmanager
def _lock_of_part(workspace: Path, part: Part) -> Iterator[None]:
    descriptor = os.open(workspace / f"part-{part.index}-of-{part.count}", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConvertError(f"{workspace.parent}: part {part} is running already; wait for its end") from error
    finally:
        os.close(descriptor)


def _take_up(dataset: Path, plan: Plan, lock: int, beside: frozenset[str] | None = None) -> None:
    """Writes the plan into its file, or finds the same plan there."""
    there = _plan_in(dataset / PLAN)
    if there is None:
        # New, or killed while the plan was being written: before anything else was.
        _refuse_more_than_a_plan(dataset, beside)
        os.truncate(lock, 0)
        os.pwrite(
            lock, json.dumps({"plan": plan.fingerprint, "options": plan.recorded_options()}).encode(), 0
        )
        os.fsync(lock)
        sync_folder(dataset)
    elif there["plan"] != plan.fingerprint:
        options = plan.recorded_options()
        changed = [name for name in options if there["options"].get(name) != options[name]]
        texts = [f"{name} was {there['options'].get(name)}, is {options[name]}" for name in changed]
        difference = "; ".join(texts) or "the files of the source have changed since"
        raise ConvertError(
            f"{dataset}: holds an unfinished conversion of another plan ({difference}); "
            "run it with the same source and options, or delete the folder"
        )


def _plan_in(path: Path) -> dict[str, Any] | None:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    whole = isinstance(plan, dict) and isinstance(plan.get("options"), dict) and "plan" in plan
    return plan if whole else None


def _refuse_more_than_a_plan(dataset: Path, beside: frozenset[str] | None) -> None:
    if _names_in(dataset, beside) != {PLAN}:
        raise ConvertError(f"{dataset}: {PLAN} is damaged; delete the folder and convert again")
