"""Carries a launch out: writes its files, checks the hosts, runs its commands, and says how it ended.

`python -m viewmill.tools.launch.start RUN/launch` does so with files that were written, and changed, before.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from viewmill.engine.preemption import REQUEUE_EXIT_CODE
from viewmill.tools.console import FAILED, FAULTS, INTERRUPTED, SUCCESS, USAGE, print_line
from viewmill.tools.launch.job_number import refuse_queued
from viewmill.tools.launch.lost_host import record_lost
from viewmill.tools.launch.process import SSH_FAILED
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.submission import submit
from viewmill.tools.launch.supervisor import Outcome, supervise
from viewmill.tools.launch.written import Command, Written, launch_folder

COMMANDS = "commands.json"
CHECK_S = 120.0  # a host that imports from a slow disk needs some


def write_files(written: Written, run: Path, python: str) -> Path:
    """RUN/launch with the files of a launch, what runs them, and launch.sh; the folder.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(launch_folder(str(run)))
    folder.mkdir(parents=True, exist_ok=True)
    told = {"commands": written.commands, "checks": written.checks}
    lists = {name: [asdict(command) for command in commands] for name, commands in told.items()}
    known = {"hosts": written.hosts, "is_over": written.is_over, "tasks": written.tasks}
    files = {
        **written.files,
        COMMANDS: json.dumps({**lists, **known}, indent=2) + "\n",
        "launch.sh": script("launch", python=python, folder=str(folder)),
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
        if name.endswith(".sh"):
            (folder / name).chmod(0o755)
    return folder


def read_written(folder: Path) -> Written:
    """What runs in a folder that `write_files` made; its files are there.

    Raises:
        FileNotFoundError: it is none.
        ValueError: commands.json was changed into something else.
    """
    path = folder / COMMANDS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no launch was written here; run: viewmill launch ... --dry-run")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        commands, checks = ([Command(**line) for line in told[name]] for name in ("commands", "checks"))
        known = {name: told[name] for name in ("hosts", "is_over", "tasks")}
        return Written({}, commands, checks, **known)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {error!r}; write it anew with viewmill launch ... --dry-run") from error


def check_hosts(checks: Sequence[Command]) -> None:
    """Runs all checks at once.

    Raises:
        RuntimeError: some failed; names every host with its reason.
    """
    running = [
        subprocess.Popen(
            check.argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for check in checks
    ]
    wrong = []
    for check, process in zip(checks, running, strict=True):
        try:
            _, told = process.communicate(timeout=CHECK_S)
        except subprocess.TimeoutExpired:
            process.kill()
            told = f"no answer within {CHECK_S:.0f} s"
        if process.returncode:
            lines = told.strip().splitlines() or [f"exit code {process.returncode}"]
            how = "cannot be reached" if process.returncode == SSH_FAILED else "cannot take part"
            wrong.append(f"{check.host or 'this machine'} {how}: {lines[-1]}")
    if wrong:
        raise RuntimeError(f"{'; '.join(wrong)}; nothing was started")


def run(written: Written, run_dir: Path, *, stdout: int | None = None) -> tuple[int, str]:
    """Exit code and one line of a launch whose files are written.

    Args:
        stdout: as `supervise` takes it.

    Raises:
        ConfigError: a job of a queue trains into this folder, or will.
        RuntimeError: hosts cannot take part, or it is not known whether such a job has ended.
    """
    refuse_queued(written.tasks or [str(run_dir)])
    check_hosts(written.checks)
    if written.tasks or not written.is_over:
        return submit(written, run_dir, stdout=stdout)
    before = requeue_stamp(run_dir)
    began_ns = touched(run_dir)
    outcome = supervise(written.commands, stdout=stdout)
    is_requeued = requeue_stamp(run_dir) not in (None, before)
    if outcome.is_lost and outcome.host in written.hosts:
        with contextlib.suppress(OSError):  # of a disk that is gone as well: the host is told in any case
            record_lost(run_dir, written.hosts, outcome.host, outcome.reason, began_ns)
    return exit_code(outcome, is_requeued), told(outcome, is_requeued, run_dir)


def touched(run_dir: Path) -> int:
    """This moment, by the clock of the run's disk."""
    path = Path(launch_folder(str(run_dir))) / COMMANDS
    path.touch()
    return path.stat().st_mtime_ns


def requeue_stamp(run_dir: Path) -> int | None:
    """When RUN/requeue.json was written, by the clock of its disk; None: it is not there."""
    try:
        return (run_dir / "requeue.json").stat().st_mtime_ns
    except FileNotFoundError:
        return None


def exit_code(outcome: Outcome, is_requeued: bool) -> int:
    """torchrun makes 1 of every failure, pdsh and ssh have numbers of their own: what counts is kept.

    Args:
        is_requeued: RUN/requeue.json was written in this start.
    """
    if outcome.code == SUCCESS:
        return SUCCESS
    if is_requeued:
        return REQUEUE_EXIT_CODE
    if outcome.is_asked:
        return INTERRUPTED
    return outcome.code if outcome.code in (USAGE, FAULTS) else FAILED


def told(outcome: Outcome, is_requeued: bool, run_dir: Path) -> str:
    """The last line of a launch."""
    if outcome.code == SUCCESS:
        return f"{run_dir}: all ranks have ended well"
    if is_requeued:
        return f"stopped by a signal and saved; go on with the same command and --resume ({run_dir})"
    if outcome.is_asked:
        return f"error: stopped by a signal, and not saved; --resume goes on from the last save ({run_dir})"
    if outcome.is_lost:
        why = outcome.reason.rstrip(".")
        return (
            f"error: host {outcome.host} is lost: {why}; the run was ended on the others; go on "
            "with --resume, and a host file without it where it stays away"
        )
    where = "" if outcome.host is None else f" on host {outcome.host}"
    return f"error: the ranks{where} ended with exit code {outcome.code}; what they said stands above"


def main(arguments: Sequence[str]) -> int:
    """`launch.sh` of a folder that was written."""
    if len(arguments) != 1:
        print("usage: python -m viewmill.tools.launch.start RUN/launch", file=sys.stderr)
        return USAGE
    folder = Path(arguments[0]).absolute()
    try:
        code, line = run(read_written(folder), folder.parent)
    except (ValueError, OSError, RuntimeError) as error:
        code, line = FAILED, f"error: {error}"
    if code == SUCCESS:
        print_line(line)
    else:
        print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
