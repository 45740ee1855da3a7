"""Runs the commands of a launch side by side: they end together, whatever ends first."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType

from viewmill.tools.console import INTERRUPTED
from viewmill.tools.launch.process import Process
from viewmill.tools.launch.torchrun import SHUTDOWN_S
from viewmill.tools.launch.written import Command

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
LOOK_S = 0.1
WORD_S = 1.0  # between two words of a lease
# Ranks that are left say what they know of the one that failed, and end: within 2.5 heartbeats.
GRACE_S = 20.0
END_S = 15.0  # for lease.sh to end a host's processes


@dataclass(frozen=True)
class Outcome:
    """How a launch has ended."""

    code: int  # of the command that failed first; 0: none has
    host: str | None = None  # of that command
    is_lost: bool = False  # that host cannot be reached any more
    reason: str = ""  # its last line on stderr, where it is on a host
    is_asked: bool = False  # a signal had asked for the end


class Signals:
    """Notes the signals that ask a launch to stop; a run that is asked twice is ended at once."""

    def __init__(self) -> None:
        self.count, self.last = 0, 0

    def note(self, number: int, frame: FrameType | None) -> None:
        self.count, self.last = self.count + 1, number

    @contextlib.contextmanager
    def watched(self) -> Iterator["Signals"]:
        """Inside, they are noted instead of obeyed; one that this process was told to ignore stays ignored.

        nohup ignores SIGHUP, so that a logout ends nothing, and a shell ignores the Ctrl-C of what it has put
        into the background.
        """
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self.note) for number in heard}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def supervise(commands: Sequence[Command], *, grace_s: float = GRACE_S, stdout: int | None = None) -> Outcome:
    """Runs all until those that work have ended; none of their processes is left, on any host.

    A signal becomes the word USR1 to every lease, at which ranks save and stop; where there is no lease the
    commands get it as it came. The first command that fails gives the others `grace_s` seconds, none where
    its host is lost; then they are ended.

    Args:
        stdout: the descriptor that takes what the commands print; None: this process's own.
    """
    processes: list[Process] = []
    with Signals().watched() as signals:
        try:
            for command in commands:
                processes.append(Process(command, stdout=stdout))
            failed = _watch(processes, signals, grace_s)
            # Before the rest is ended: that changes their codes.
            outcome = Outcome(0) if failed is None else _told(failed)
            if any(process.code is None for process in processes if not process.command.attends):
                outcome = replace(outcome, code=outcome.code or INTERRUPTED)
            return replace(outcome, is_asked=signals.count > 0)
        finally:
            end(processes)


def _watch(processes: Sequence[Process], signals: Signals, grace_s: float) -> Process | None:
    """Until the work is done or given up; the process that failed first."""
    workers = [process for process in processes if not process.command.attends]
    failed, asked, until_s, next_word_s = None, 0, float("inf"), 0.0
    while any(worker.code is None for worker in workers):
        now_s = time.monotonic()
        if signals.count > asked:
            asked, grace_s = signals.count, SHUTDOWN_S
            _pass_on(processes, signals.last)
        if failed is None:
            failed = _first_failed(processes)
            if failed is not None:
                until_s = now_s + (0.0 if failed.is_lost else grace_s)
        if now_s >= until_s or asked > 1:
            break
        if now_s >= next_word_s:
            next_word_s = now_s + WORD_S
            for process in processes:
                process.say("on")
        time.sleep(LOOK_S)
    return failed or _first_failed(processes)


def _first_failed(processes: Sequence[Process]) -> Process | None:
    """One that ended otherwise than with 0; a watch over a host has no business to end at all."""
    ended = [process for process in processes if process.code is not None]
    lost = [process for process in ended if process.is_lost]
    return next((process for process in [*lost, *ended] if process.code or process.command.attends), None)


def _pass_on(processes: Sequence[Process], number: int) -> None:
    is_leased = any(process.command.leased for process in processes)
    for process in processes:
        if is_leased:
            process.say("USR1")
        else:
            process.signal(number)


def _told(process: Process) -> Outcome:
    code = process.code if process.code is not None else 1
    host = process.command.host
    return Outcome(code or 1, host, process.is_lost, process.last_line)


def end(processes: Sequence[Process]) -> None:
    """Lets go of every lease, waits until their hosts' processes are ended, and kills what is left here."""
    for process in processes:
        process.fall_silent()
    until_s = time.monotonic() + END_S
    while time.monotonic() < until_s:
        if all(process.code is not None for process in processes if process.command.leased):
            break
        time.sleep(LOOK_S)
    for process in processes:
        process.kill()
