"""The number of the SLURM job that trains into a folder: kept beside the run, and asked of squeue."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from viewmill.engine.strict import ConfigError
from viewmill.engine.telemetry import replace_text

JOB_NUMBER = "launch/job_id"
SQUEUE_S = 60.0  # it tries for some 20 s to reach a controller that is away
_NUMBER = re.compile(r"(\d+(?:_\d+)?)(?:;(\S+))?")


class Number(NamedTuple):
    """A job, or a task of an array, as squeue and scancel write it: 12, 12_3."""

    name: str
    cluster: str | None = None  # where there are several, and it is not the one that is asked by default

    def __str__(self) -> str:
        return self.name if self.cluster is None else f"{self.name};{self.cluster}"


def parsed(text: str) -> Number | None:
    """A number as sbatch --parsable prints it, or as it is kept; None: it is none."""
    match = _NUMBER.fullmatch(text)
    return None if match is None else Number(match[1], match[2])


def keep_number(job: Number, tasks: Mapping[str, str]) -> None:
    """Writes a job's number into the folders that it trains into.

    Args:
        tasks: by folder, what follows the number: '' or, in an array, '_3'.

    Raises:
        OSError: a folder cannot be written.
    """
    for folder, task in tasks.items():
        path = Path(folder) / JOB_NUMBER
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, f"{job._replace(name=job.name + task)}\n")


def kept_number(folder: str) -> Number | None:
    """The job that a folder was given to last; None: to none, or that has come to its end.

    Raises:
        RuntimeError: the file holds something else.
    """
    path = Path(folder) / JOB_NUMBER
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    number = parsed(text)
    if number is None:
        raise RuntimeError(
            f"{path}: expected the number of a SLURM job, got {text!r}; remove it if none trains there"
        )
    return number


def queued(folders: Iterable[str]) -> dict[str, str]:
    """By folder, the job that waits or runs and trains into it; folders without one are left out.

    Raises:
        RuntimeError: a folder was given to a job, and squeue does not say whether that has ended.
    """
    kept = {folder: number for folder in folders if (number := kept_number(folder)) is not None}
    found: dict[str, str] = {}
    for cluster in {number.cluster for number in kept.values()}:
        there = {folder: number.name for folder, number in kept.items() if number.cluster == cluster}
        try:
            listed = _listed({name.partition("_")[0] for name in there.values()}, cluster)
        except (OSError, subprocess.SubprocessError) as error:
            folder, name = next(iter(there.items()))
            raise RuntimeError(
                f"{folder}: was given to SLURM job {name}, and squeue does not say whether that has ended "
                f"({_reason(error)}); ask where SLURM answers, and remove {folder}/{JOB_NUMBER} if it has"
            ) from error
        found |= {folder: name for folder, name in there.items() if name in listed}
    return found


def refuse_queued(folders: Iterable[str]) -> None:
    """Raises ConfigError where a job waits or runs and trains into a folder, and RuntimeError as `queued`."""
    for folder, name in queued(folders).items():
        raise ConfigError(
            f"{folder}: SLURM job {name} waits or runs, and trains into it; wait for its end, or end it "
            f"by: scancel {name}"
        )


def _listed(jobs: set[str], cluster: str | None) -> set[str]:
    """What squeue has of some jobs: their numbers, and those of the tasks of arrays.

    Raises:
        OSError: it is not there.
        subprocess.SubprocessError: it cannot say.
    """
    words = ["squeue", "--noheader", "--all", "--array", "--format=%i", f"--jobs={','.join(sorted(jobs))}"]
    words += [] if cluster is None else [f"--clusters={cluster}"]
    # SQUEUE_STATES and the like hide jobs.
    env = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=SQUEUE_S)
    if done.returncode and "Invalid job id" not in done.stderr:  # so long ended that SLURM has forgotten it
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
    return set(done.stdout.split())


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no program squeue on this machine"
    lines = error.stderr.split("\n") if isinstance(error, subprocess.CalledProcessError) else []
    return next((line.strip() for line in lines if line.strip()), str(error))
