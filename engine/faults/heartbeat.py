"""RUN/heartbeats/rank-N.json: where each rank is, for the other ranks and for who looks at a run."""

import json
import os
import secrets
import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

import psutil
from viewmill.engine.faults.pulse import Place
from viewmill.engine.telemetry import replace_text

FOLDER = "heartbeats"


class Peer(NamedTuple):
    """Another rank by its last heartbeat."""

    rank: int
    host: str
    pid: int
    step: int
    phase: str
    entry: int  # see `Place`
    failed: str  # why it has ended; empty: it has not failed
    silent_s: float  # the heartbeat's age
    is_gone: bool  # its process, on this machine; of another machine that is not known

    @property
    def where(self) -> str:
        """Where it was when it gave its last sign."""
        return f"({self.host}, pid {self.pid}; last at step {self.step} in {self.phase})"


def new_session(run_dir: Path) -> str:
    """Rank 0, at each start: clears the heartbeats of an earlier one; the name by which ranks know theirs."""
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    (run_dir / FOLDER).mkdir(parents=True)
    return secrets.token_hex(4)


def stamp() -> str:
    """This moment, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def write_heartbeat(run_dir: Path, session: str, rank: int, place: Place, failed: str = "") -> None:
    """This rank's file, replaced at once.

    Raises:
        OSError: it cannot be written.
    """
    told = {
        "session": session,
        "rank": rank,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "step": place.step,
        "phase": place.phase.value,
        "entry": place.entry,
        "failed": failed,
        "time": stamp(),
    }
    (run_dir / FOLDER).mkdir(exist_ok=True)
    replace_text(file_of(run_dir, rank), json.dumps(told) + "\n")


def file_of(run_dir: Path, rank: int) -> Path:
    return run_dir / FOLDER / f"rank-{rank}.json"


def peers_of(run_dir: Path, session: str, rank: int, world_size: int) -> list[Peer]:
    """The other ranks of this session, as far as they have given a sign.

    Ages are differences of file times, which one file system gives: clocks of machines differ. They are
    right where this rank has written its own file just before.

    Raises:
        OSError: this rank's own file is not there.
    """
    own_s = file_of(run_dir, rank).stat().st_mtime
    others = (other for other in range(world_size) if other != rank)
    found = (_peer(file_of(run_dir, other), session, own_s) for other in others)
    return [peer for peer in found if peer is not None]


def _peer(file: Path, session: str, own_s: float) -> Peer | None:
    try:
        age_s = own_s - file.stat().st_mtime
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there yet, or being replaced on a file system that is no help
        return None
    if told["session"] != session:
        return None
    fields = {name: told[name] for name in Peer._fields if name in told}
    is_gone = told["host"] == socket.gethostname() and has_ended(told["pid"])
    return Peer(**fields, silent_s=max(0.0, age_s), is_gone=is_gone)


def has_ended(pid: int) -> bool:
    """Whether a process of this machine is no more."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
