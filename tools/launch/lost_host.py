"""A lost host is told where ranks tell their faults: in RUN/faults, and among the next start's events."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewmill.engine.faults import heartbeat
from viewmill.engine.faults.record import LAUNCHER, Fault, record

KIND = "lost host"


def record_lost(run_dir: Path, hosts: Sequence[str], host: str, reason: str, since_ns: int) -> None:
    """A fault for each rank that the host had, by its last heartbeat; the others wait and cannot tell.

    Args:
        hosts: in the order of their ranks, as many on each.
        since_ns: when this start began, by the clock of the run's disk; older heartbeats are of another.

    Raises:
        OSError: the run folder cannot be written.
    """
    beats = heartbeats(run_dir, since_ns)
    ranks_per_host = (max(beats, default=-1) + 1) // len(hosts)
    first = list(hosts).index(host) * ranks_per_host
    now = heartbeat.stamp()
    faults = [
        Fault(beat["session"], KIND, rank, host, beat["step"], beat["phase"], reason, LAUNCHER, now)
        for rank, beat in beats.items()
        if first <= rank < first + ranks_per_host
    ]
    if faults:
        record(run_dir, faults)


def heartbeats(run_dir: Path, since_ns: int) -> dict[int, dict[str, Any]]:
    """The last heartbeat of every rank of this start; those that had not begun have none."""
    found = {}
    for path in sorted((run_dir / heartbeat.FOLDER).glob("rank-*.json")):
        try:
            if path.stat().st_mtime_ns >= since_ns:
                beat = json.loads(path.read_text(encoding="utf-8"))
                found[int(beat["rank"])] = beat
        except (OSError, ValueError):  # being replaced on a file system that is no help
            continue
    return dict(sorted(found.items()))
