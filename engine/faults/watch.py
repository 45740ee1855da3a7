"""`FaultWatch`: two threads beside the training of a rank, and what an exception at its end means."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from viewmill.engine.agreement import RankError, describe, from_rank_zero
from viewmill.engine.faults.causes import culprit_of, is_fault, is_of_a_peer, kind_of
from viewmill.engine.faults.heartbeat import Peer, new_session, peers_of, write_heartbeat
from viewmill.engine.faults.judge import LOST_RANK, Finding, has_vanished, judge, lost_ranks
from viewmill.engine.faults.limits import FaultsConfig
from viewmill.engine.faults.pulse import Dwell, Phase, Place, Pulse
from viewmill.engine.faults.record import Fault, dump_stacks, faults_of, record
from viewmill.engine.world import World

EXIT_CODE = 1  # it failed at run time
# A run folder on a mount that hangs must not keep a rank from ending.
_PATIENCE_TO_WRITE_S = 10.0


class _Seen(NamedTuple):
    """The other ranks, as they were while this one was in a place."""

    place: Place
    peers: list[Peer]


class FaultWatch:
    """Heartbeats, and a watchdog that ends a rank which waits for what will not come; all ranks enter it.

    Inside it a rank that is longer in one phase than its limit writes stacks and fault into RUN/faults, says
    so on stderr and ends its process with exit code 1. An exception that leaves it is written there too.

    Args:
        pulse: what the training says it is doing.
        end: ends the process; a test may take another.
    """

    def __init__(
        self,
        run_dir: Path,
        world: World,
        limits: FaultsConfig,
        pulse: Pulse,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._run_dir, self._world, self._limits, self._pulse, self._end = run_dir, world, limits, pulse, end
        self._every_s = min(1.0, limits.silent_s / 10, limits.hang_s / 10, limits.long_s / 10)
        self._dwell = Dwell(self._every_s)
        self._seen: _Seen | None = None
        self._stopping = threading.Event()
        self._telling = threading.Lock()  # whoever comes first tells; one fault ends a rank
        self._threads = [
            threading.Thread(target=self._beat, name="viewmill-heartbeat", daemon=True),
            threading.Thread(target=self._watch, name="viewmill-watchdog", daemon=True),
        ]

    def __enter__(self) -> "FaultWatch":
        self.session: str = from_rank_zero(self._world, lambda: new_session(self._run_dir))
        write_heartbeat(self._run_dir, self.session, self._world.rank, self._pulse.at)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells the fault that an exception is.

        Raises:
            RankError: in place of a collective's error, with the rank that is gone, as far as it is found.
        """
        place = self._pulse.at
        self._pulse.enter(Phase.END, place.step)  # no limit any more
        failed = "" if error is None or not is_fault(error) else describe(error) or ""
        self._stopping.set()
        for thread in self._threads:
            thread.join(self._limits.heartbeat_s)
        if not failed or error is None:
            self._last_heartbeat("")
            return
        finding = self._finding_of(error)
        self._last_heartbeat(finding.cause)
        if self._telling.acquire(blocking=False):
            self._write(finding, place, with_stacks=False)
        if is_of_a_peer(error) and finding.culprits:
            first = finding.culprits[0].rank
            raise RankError(first, finding.cause.removeprefix(f"rank {first}: ")) from error

    def _beat(self) -> None:
        """The life of the thread that touches the run folder."""
        has_told = False
        while not self._stopping.wait(self._limits.heartbeat_s):
            place = self._pulse.at
            try:
                write_heartbeat(self._run_dir, self.session, self._world.rank, place)
                if self._dwell.seconds >= self._limits.silent_s:
                    self._seen = _Seen(place, self._look())
            except OSError as error:
                # A full disk, say: training goes on, and as no rank looks at the others now, none is blamed.
                if not has_told:
                    self._say(f"no heartbeat can be written: {error}")
                has_told = True

    def _watch(self) -> None:
        """The life of the thread that ends a rank. It touches no file, for a mount may be what hangs."""
        while not self._stopping.wait(self._every_s):
            place, seen = self._pulse.at, self._seen
            waited_s = self._dwell.look(place, time.monotonic())
            peers = seen.peers if seen is not None and seen.place == place else []
            longest_s = self._dwell.longest_s(place.phase)
            finding = judge(place, waited_s, peers, self._limits, longest_s)
            if finding is not None and self._telling.acquire(blocking=False):
                self._say(f"error: {finding.cause}; stacks in {self._run_dir}/faults, go on with --resume")
                within(_PATIENCE_TO_WRITE_S, partial(self._write, finding, place, with_stacks=True))
                self._end(EXIT_CODE)
                return

    def _finding_of(self, error: BaseException) -> Finding:
        """What an exception is, with the rank behind it."""
        told = describe(error) or ""
        if is_of_a_peer(error):
            lost = self._lost_peers()
            cause = lost_ranks(lost) if lost else f"another rank has left ({told})"
            return Finding(LOST_RANK, cause, tuple(lost))
        rank = culprit_of(error)
        if rank is not None:
            with contextlib.suppress(OSError):
                named = tuple(peer for peer in self._look() if peer.rank == rank)
                return Finding("another rank", told, named)
        return Finding(kind_of(error), told, ())

    def _lost_peers(self) -> list[Peer]:
        """Who has gone, waited for as long as it takes to hear nothing of a rank on another machine."""
        silent: list[Peer] = []
        until_s = time.monotonic() + 2.5 * self._limits.heartbeat_s
        while True:
            with contextlib.suppress(OSError):
                self._last_heartbeat("")
                peers = self._look()
                # A rank that fails because of another one is not the one.
                gone = [peer for peer in peers if has_vanished(peer)] or [
                    peer for peer in peers if peer.failed
                ]
                if gone:
                    return gone
                silent = [peer for peer in peers if peer.silent_s > 1.5 * self._limits.heartbeat_s]
            if time.monotonic() >= until_s:
                return [peer for peer in silent if peer.phase != Phase.END.value]
            time.sleep(min(0.05, self._limits.heartbeat_s))

    def _look(self) -> list[Peer]:
        return peers_of(self._run_dir, self.session, self._world.rank, self._world.world_size)

    def _last_heartbeat(self, failed: str) -> None:
        with contextlib.suppress(OSError):  # what went wrong is being told already
            write_heartbeat(self._run_dir, self.session, self._world.rank, self._pulse.at, failed)

    def _write(self, finding: Finding, place: Place, *, with_stacks: bool) -> None:
        rank = self._world.rank
        try:
            if with_stacks:
                write_heartbeat(self._run_dir, self.session, rank, place, finding.cause)
                dump_stacks(self._run_dir, rank, finding.cause)
            record(self._run_dir, self._faults(finding, place))
        except OSError as error:
            self._say(f"this is not in {self._run_dir}/faults, for it cannot be written: {error}")

    def _faults(self, finding: Finding, place: Place) -> list[Fault]:
        own = (self._world.rank, place.step, place.phase.value)
        return faults_of(self.session, finding.kind, finding.cause, finding.culprits, own=own)

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            print(f"[rank {self._world.rank}] {text}", file=sys.stderr, flush=True)


def within(seconds: float, work: Callable[[], None]) -> None:
    """work() in a thread, waited for no longer than that."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
