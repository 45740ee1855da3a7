"""Hands a launch to a queue: what its commands print, the number of the job, and how that is told."""

import contextlib
import os
import sys
import threading
from pathlib import Path
from types import TracebackType

from viewmill.engine.preemption import REQUEUE_EXIT_CODE
from viewmill.tools.console import FAILED, FAULTS, INTERRUPTED, SUCCESS, USAGE
from viewmill.tools.launch.job_number import Number, keep_number, parsed
from viewmill.tools.launch.supervisor import Outcome, supervise
from viewmill.tools.launch.written import Written

# Without --parsable, which somebody may have taken out of commands.json.
SPOKEN = "Submitted batch job "
READ_S = 10.0  # for what sbatch has printed, once it has ended


def submit(written: Written, run_dir: Path, *, stdout: int | None = None) -> tuple[int, str]:
    """Exit code and one line of a launch whose commands hand it to a queue, and may wait for its end there.

    Args:
        stdout: as `supervise` takes it; where a job's number is printed, it is read instead.
    """
    if not written.tasks:
        return told(supervise(written.commands, stdout=stdout), written, run_dir, None)
    with Reader(written) as reader:
        outcome = supervise(written.commands, stdout=reader.stdout)
    code, line = told(outcome, written, run_dir, reader.job)
    if reader.error is not None:
        line += f"; its number could not be kept ({reader.error}): launch it again only when it has ended"
    return code, line


def told(outcome: Outcome, written: Written, run_dir: Path, job: Number | None) -> tuple[int, str]:
    """Exit code and last line.

    Args:
        job: as sbatch has printed it; None: it has not, or the queue is another's.
    """
    program = written.commands[0].argv[0]
    name = "" if job is None else f"SLURM job {job.name}"
    if outcome.code == SUCCESS and written.is_over:
        return SUCCESS, f"{run_dir}: {name or 'the job'} has ended well"
    if outcome.code == SUCCESS:
        return SUCCESS, f"{run_dir}: submitted" + (f" as {name}" if name else "")
    if job is None and outcome.is_asked:
        return INTERRUPTED, f"error: a signal has ended {program}; look whether the job is in the queue"
    if job is None:
        why = f"{program} ended with exit code {outcome.code}"
        return FAILED, f"error: {why}, and nothing was submitted; what it said stands above"
    if outcome.is_asked:
        return INTERRUPTED, f"error: {name} goes on without this launch; end it by: scancel {job.name}"
    code = outcome.code if outcome.code in (USAGE, FAULTS, REQUEUE_EXIT_CODE) else FAILED
    return code, f"error: {name} ended with exit code {outcome.code}; what it said is in {run_dir}/launch"


class Reader:
    """Reads what sbatch prints, while it runs, and keeps the number of the job beside its runs."""

    def __init__(self, written: Written) -> None:
        self.job: Number | None = None
        self.error: OSError | None = None  # the number could not be kept
        self._written = written
        self._reading, self.stdout = os.pipe()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.stdout)
        self._thread.join(READ_S)

    def _read(self) -> None:
        """The life of a thread."""
        with os.fdopen(self._reading, encoding="utf-8", errors="replace") as printed:
            for line in printed:
                job = parsed(line.strip().removeprefix(SPOKEN))
                if job is None:
                    _say(line.rstrip())
                else:
                    self._keep(job)

    def _keep(self, job: Number) -> None:
        self.job = job
        try:
            keep_number(job, self._written.tasks)
        except OSError as error:
            self.error = error
        if self._written.is_over:
            _say(f"submitted as SLURM job {job.name}; waiting for its end")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
