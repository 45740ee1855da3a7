"""RUN/faults: what went wrong, where, and the stacks of that moment. Each rank writes files of its own."""

import contextlib
import faulthandler
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from viewmill.engine.faults.heartbeat import Peer, stamp
from viewmill.engine.telemetry import cut_torn_line, read_lines

FOLDER, SUMMARY = "faults", "summary.json"
LAUNCHER = -1  # stands for a rank where the launcher tells a fault: no rank could


class Fault(NamedTuple):
    """One fault: which rank it is of, where that was, and which rank tells it."""

    session: str  # of the start that it ended
    kind: str
    rank: int
    host: str  # empty: not known
    step: int
    phase: str
    cause: str
    told_by: int
    time: str  # UTC


def faults_of(
    session: str, kind: str, cause: str, culprits: Iterable[Peer], *, own: tuple[int, int, str]
) -> list[Fault]:
    """One for each culprit; without culprits, of the rank that tells it.

    Args:
        own: rank, step and phase of the one that tells it.
    """
    rank, step, phase = own
    now = stamp()
    found = [
        Fault(session, kind, peer.rank, peer.host, peer.step, peer.phase, cause, rank, now)
        for peer in culprits
    ]
    return found or [Fault(session, kind, rank, socket.gethostname(), step, phase, cause, rank, now)]


def record(run_dir: Path, faults: list[Fault]) -> None:
    """Adds them to the file of the rank that tells them, and makes the summary anew.

    Raises:
        OSError: the run folder cannot be written.
    """
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"rank-{faults[0].told_by}.jsonl"
    cut_torn_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(fault._asdict()) + "\n" for fault in faults))
    summarise(run_dir, told_by=faults[0].told_by)


def dump_stacks(run_dir: Path, rank: int, cause: str) -> Path:
    """Adds the stacks of all threads of this process to RUN/faults/rank-N.txt.

    Raises:
        OSError: the run folder cannot be written.
    """
    path = run_dir / FOLDER / f"rank-{rank}.txt"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{stamp()} {cause}\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
        file.write("\n")
    return path


def summarise(run_dir: Path, told_by: int) -> list[dict[str, Any]]:
    """Writes RUN/faults/summary.json: the faults of all ranks and sessions, the first ones first.

    A fault that several ranks tell stands there once, in the words of the rank that it is of, if it could
    tell. Ranks may do this at the same time: the last one to write has seen what all had told.

    Args:
        told_by: the rank that calls this.

    Returns:
        {session, kind, rank, host, step, phase, cause, time, told_by: ranks} of each.
    """
    while True:
        files = sorted((run_dir / FOLDER).glob("rank-*.jsonl"))
        before = _sizes(files)
        merged = merge([Fault(**line) for file in files for line in read_lines(file)])
        own = run_dir / FOLDER / f".summary-{told_by}"
        own.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")
        own.replace(run_dir / FOLDER / SUMMARY)
        if _sizes(sorted((run_dir / FOLDER).glob("rank-*.jsonl"))) == before:
            return merged


def merge(faults: Iterable[Fault]) -> list[dict[str, Any]]:
    """One line for each session and rank that a fault is of."""
    groups: dict[tuple[str, int], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.session, fault.rank), []).append(fault)
    merged = []
    for group in groups.values():
        best = min(group, key=lambda fault: (fault.told_by != fault.rank, not fault.host, fault.time))
        first = min(fault.time for fault in group)
        told_by = sorted({fault.told_by for fault in group})
        merged.append({**best._asdict(), "time": first, "told_by": told_by})
    return sorted(merged, key=lambda line: (line["time"], line["session"], line["rank"]))


def recorded(run_dir: Path) -> list[dict[str, Any]]:
    """What the summary holds; nothing where nothing has gone wrong."""
    try:
        return list(json.loads((run_dir / FOLDER / SUMMARY).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return []


def untold(run_dir: Path) -> list[dict[str, Any]]:
    """Faults of earlier starts that are not among the run's events yet."""
    told = [line for line in read_lines(run_dir / "events.jsonl") if line["event"] == "fault"]
    known = {(line["session"], line["rank"]) for line in told}
    return [fault for fault in recorded(run_dir) if (fault["session"], fault["rank"]) not in known]


def _sizes(files: Iterable[Path]) -> dict[str, int]:
    sizes = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            sizes[file.name] = file.stat().st_size
    return sizes
