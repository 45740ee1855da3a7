"""Carries a sweep out: its runs in turn, or as the tasks of a queue's array."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewmill.engine.config import RunConfig, load_config
from viewmill.engine.preemption import REQUEUE_EXIT_CODE
from viewmill.engine.strict import ConfigError
from viewmill.tools.console import FAILED, INTERRUPTED, SUCCESS, describe, print_json, print_line
from viewmill.tools.launch.explained import explanation, plan
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.job_number import queued
from viewmill.tools.launch.start import run, write_files
from viewmill.tools.launch.sweep import Combination, combinations, jobs_of, parse_sweep
from viewmill.tools.launch.sweep_results import FAILED as RUN_FAILED
from viewmill.tools.launch.sweep_results import (
    forget_end,
    is_finished,
    note_end,
    results,
    table,
    write_results,
)
from viewmill.tools.launch.targets import Target
from viewmill.tools.launch.written import Written


class Sweep:
    """The runs of a sweep on a target.

    Raises:
        ConfigError: the words are no grid, a run's settings are wrong, or the folder is a run's.
    """

    def __init__(self, job: Job, words: Sequence[str], target: Target, options: Any) -> None:
        self.job, self.target, self.options = job, target, options
        if not words:
            raise ConfigError("--results is of a sweep; give its --sweep KEY=V,V too")
        self.runs = combinations(parse_sweep(words, job.overrides))
        if (Path(job.out) / "config.yaml").exists():
            raise ConfigError(f"{job.out}: holds a run; give the sweep a folder of its own with --out")
        self.configs = {run.name: self._config_of(run) for run in self.runs}

    def _config_of(self, run: Combination) -> RunConfig:
        return load_config(self.job.recipe, [*self.job.overrides, *run.overrides()])

    def left(self) -> list[Combination]:
        """The runs that have neither finished nor are in a queue; all, where this machine sees no folders.

        Raises:
            ConfigError: all that have not finished are in a queue.
            RuntimeError: it is not known whether a run is.
        """
        if not self.target.sees_data:
            return self.runs
        folder = Path(self.job.out)
        open_ = [run for run in self.runs if not is_finished(folder / run.name, self.configs[run.name])]
        there = queued(str(folder / run.name) for run in open_)
        if there:
            jobs = sorted({name.partition("_")[0] for name in there.values()})
            told = f"{folder}: {len(there)} of {len(open_)} runs that are left wait or run as SLURM job "
            told += ", ".join(jobs)
            if len(there) == len(open_):
                raise ConfigError(f"{told}; wait for their end, or end them by: scancel {' '.join(jobs)}")
            print(f"{told}, and are passed over", file=sys.stderr)
        return [run for run in open_ if str(folder / run.name) not in there]

    def launches(self) -> list[tuple[Job, Written]]:
        """What is to be carried out, one after the other; an array is one launch, in the sweep's folder."""
        jobs = jobs_of(self.job, self.left())
        if self.target.write_array is None or not jobs:
            return [(job, self.target.write(job, self.options)) for job in jobs]
        return [(self.job, self.target.write_array(jobs, self.options, self.job.out))]

    def explained(self) -> str:
        """All launches, for people."""
        found = [explanation(job, written, self._device()) for job, written in self.launches()]
        return "\n\n".join(found) or "every run has finished"

    def plan(self) -> list[dict[str, Any]]:
        """The same as JSON."""
        return [plan(job, written, self._device()) for job, written in self.launches()]

    def _device(self) -> str:
        return next(iter(self.configs.values())).device

    def write(self) -> list[Path]:
        """Writes the files of all launches; their folders."""
        return [
            write_files(written, Path(written.folder or job.out), sys.executable)
            for job, written in self.launches()
        ]

    def carry_out(self, *, stdout: int | None = None) -> int:
        """Runs or submits what is left; the exit code.

        A run that fails is noted, and the next one begins; a signal saves the one that runs, and is the end.

        Args:
            stdout: of the runs, as a descriptor; None: this process's.
        """
        worst = SUCCESS
        for job, written in self.launches():
            code, line = self._carry_out_one(job, written, stdout)
            print(line, file=sys.stderr)
            if code in (REQUEUE_EXIT_CODE, INTERRUPTED):
                return code
            worst = worst if code == SUCCESS else FAILED
        return worst

    def _carry_out_one(self, job: Job, written: Written, stdout: int | None) -> tuple[int, str]:
        """Exit code and last line of one launch, noted for the table where its own script does not do so.

        What stops it before it has begun, a host that cannot take part say, stops no other run.
        """
        path, folder, cause = Path(job.out), Path(written.folder or job.out), None
        is_noted = written.is_over and self.target.write_array is None
        if is_noted:
            forget_end(path)
        try:
            write_files(written, folder, sys.executable)
            code, line = run(written, folder, stdout=stdout)
        except (ConfigError, RuntimeError, OSError) as error:
            code, line = FAILED, describe(error)[1]
            cause = line.removeprefix("error: ")
        if is_noted:
            note_end(path, code, cause)
        return code, line

    def results(self) -> list[dict[str, Any]]:
        """A line for each run, see `sweep_results.results`."""
        return results(Path(self.job.out), self.runs)


def answer(sweep: Sweep, *, results: bool, explain: bool, dry_run: bool, as_json: bool) -> int:
    """Explains, writes or runs a sweep, and prints what came of it; the exit code.

    The table comes last, where runs are over or it is asked for.
    """
    if explain:
        print_json(sweep.plan()) if as_json else print_line(sweep.explained())
        return SUCCESS
    if dry_run:
        folders = [str(folder) for folder in sweep.write()]
        print_json({"folders": folders}) if as_json else print_line("\n".join(folders))
        return SUCCESS
    code = SUCCESS if results else sweep.carry_out(stdout=sys.stderr.fileno() if as_json else None)
    tell_results(sweep, as_json=as_json)
    return code


def tell_results(sweep: Sweep, *, as_json: bool) -> None:
    """The table of a sweep, and its files; how many runs stand how goes to stderr."""
    from rich.console import Console

    if not sweep.target.sees_data:
        print("the runs are on volumes of the cluster; their results are seen there", file=sys.stderr)
        return
    lines = sweep.results()
    files = write_results(Path(sweep.job.out), lines)
    print_json(lines) if as_json else Console().print(table(lines))
    print(f"{summary(lines)} ({', '.join(map(str, files))})", file=sys.stderr)


def summary(lines: Sequence[dict[str, Any]]) -> str:
    """How many stand how, and which have failed, why."""
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["status"]] = counts.get(line["status"], 0) + 1
    parts = [", ".join(f"{count} {status}" for status, count in counts.items())]
    for line in lines:
        if line["status"] == RUN_FAILED:
            parts.append(
                f"{line['run']} failed with exit code {line['exit_code']}: {line['cause'] or 'see above'}"
            )
    return "; ".join(parts)
