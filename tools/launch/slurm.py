"""SLURM: a batch script that starts one torchrun a node, is requeued before its time is up, and goes on."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from pydantic import Field, field_validator
from viewmill.engine.config import load_config
from viewmill.engine.strict import StrictModel
from viewmill.tools.launch.job import TRAIN_MODULE, Job
from viewmill.tools.launch.rank_variables import in_slurm
from viewmill.tools.launch.scripts import script
from viewmill.tools.launch.torchrun import before_rendezvous
from viewmill.tools.launch.written import Command, Written, launch_folder, needs
from viewmill.tools.preflight.options import threads_of_rank

SCRIPT = "slurm.sh"
PORTS = 1000  # from --port on, as far as there are so many: jobs that share a node take different ones


class Options(StrictModel):
    """What sbatch is asked for; None leaves it to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # limit, as sbatch reads it: minutes, hours:minutes:seconds, days-hours
    gpus: str | None = None  # of a node: a number, or type:number
    cpus: str | None = Field(default=None, pattern=r"^[1-9]\d*$")  # of a node
    mem: str | None = None  # of a node, as sbatch reads it: 200G
    constraint: str | None = None
    sbatch: tuple[str, ...] = Field(default=(), strict=False)  # further options of sbatch: --exclusive
    srun: tuple[str, ...] = Field(default=(), strict=False)  # of srun: --container-image=...
    setup: tuple[str, ...] = Field(default=(), strict=False)  # lines of shell before all: module load cuda
    # Seconds before the limit at which the ranks are told to save; SLURM may tell them a minute earlier.
    signal_seconds: int = Field(default=120, ge=1, le=65535)
    parallel: int | None = Field(default=None, ge=1)  # runs of a sweep at the same time; None: no limit
    wait: bool = False  # sbatch comes back when the job has ended, with its exit code

    @field_validator("partition", "account", "qos", "time", "gpus", "mem", "constraint")
    @classmethod
    def is_one_word(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.split() != [value]):
            raise ValueError(f"expected one word without spaces, got {value!r}")
        return value

    @field_validator("sbatch")
    @classmethod
    def are_options(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.startswith("-") or not line.isprintable():
                raise ValueError(f"expected an option of sbatch, such as --exclusive, got {line!r}")
        return lines

    @field_validator("srun", "setup")
    @classmethod
    def are_lines(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.isprintable():
                raise ValueError(f"expected one line of text, got {line!r}")
        return lines


def write(job: Job, options: Options) -> Written:
    """The script of one run, and the sbatch that submits it.

    Raises:
        ValueError: the folder's name cannot stand in a batch script, or an option is of arrays alone.
    """
    if options.parallel is not None:
        raise ValueError(
            f"parallel={options.parallel} is of the runs of a sweep; add --sweep, or leave it out"
        )
    return _written([job], options, job.out, is_array=False)


def write_array(jobs: Sequence[Job], options: Options, folder: str) -> Written:
    """The script of several runs, which are the tasks of one job array, and the sbatch that submits it.

    Args:
        jobs: alike but for `out` and `overrides`.
        folder: the script and its output go to launch/ in it.

    Raises:
        ValueError: the folder's name cannot stand in a batch script.
    """
    return _written(jobs, options, folder, is_array=True)


def _written(jobs: Sequence[Job], options: Options, folder: str, is_array: bool) -> Written:
    path, first = f"{launch_folder(folder)}/{SCRIPT}", jobs[0]
    text = script(
        "slurm",
        env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(options.signal_seconds), **first.env},
        job=first,
        jobs=jobs,
        is_array=is_array,
        options=options,
        script=path,
        directives=directives(jobs, options, folder, is_array),
        # The last is said since a site may have KillOnBadExit=1.
        srun=[f"--ntasks={first.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=0", *options.srun],
        torchrun=before_rendezvous(first),
        ports=min(PORTS, 65536 - first.port),
        module=TRAIN_MODULE,
    )
    command = Command(["sbatch", "--parsable", *(["--wait"] if options.wait else []), path])
    tasks = {job.out: f"_{task}" if is_array else "" for task, job in enumerate(jobs)}
    login = needs("sbatch", "launch from a login node of the cluster")
    given = in_slurm(first, {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(options.signal_seconds), **first.env})
    return Written({SCRIPT: text}, [command], [login], is_over=options.wait, variables=given, tasks=tasks)


def directives(jobs: Sequence[Job], options: Options, folder: str, is_array: bool) -> list[str]:
    """The lines after #SBATCH."""
    name = f"viewmill-{PurePath(folder).name}"
    given = {
        "job-name": "".join(char if char.isalnum() or char in "._-=," else "-" for char in name),
        "nodes": jobs[0].nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus or cpus_for_gpus(jobs, options),
        "gpus-per-node": options.gpus,
        "mem": options.mem,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "constraint": options.constraint,
        "time": options.time,
        "signal": f"B:USR1@{options.signal_seconds}",
        "array": array_of(len(jobs), options.parallel) if is_array else None,
        "output": output_of(folder, is_array),
    }
    lines = [f"--{key}={value}" for key, value in given.items() if value is not None]
    return [*lines, "--open-mode=append", "--requeue", *options.sbatch]


def cpus_for_gpus(jobs: Sequence[Job], options: Options) -> int | None:
    """Cores of a node for the threads of its ranks; None: no GPUs are asked for, or sbatch is told otherwise.

    SLURM gives a task one core unless the site has set DefCpuPerGPU, and eight ranks would share it.
    """
    told = any(re.match(r"--cpus-per-|-c|--exclusive", line) for line in options.sbatch)
    if options.gpus is None or told:
        return None
    threads = [
        threads_of_rank(
            load_config(job.recipe, list(job.overrides)), int(job.env.get("OMP_NUM_THREADS") or 1)
        )
        for job in jobs
    ]
    return jobs[0].ranks_per_node * max(threads)


def array_of(count: int, parallel: int | None) -> str:
    """The numbers of the tasks: 0-7%2 is eight, two of them at the same time."""
    return f"0-{count - 1}" + ("" if parallel is None else f"%{parallel}")


def output_of(path: str, is_array: bool) -> str:
    """Where the output goes, quoted for an #SBATCH line, in which % begins a number of SLURM's.

    Raises:
        ValueError: no quoting helps.
    """
    if not path.isprintable() or '"' in path or "\\" in path:
        raise ValueError(
            f"{path!r}: quotes, backslashes and control characters cannot stand in a batch script"
        )
    name = "slurm-%A_%a.out" if is_array else "slurm-%j.out"
    return f'"{launch_folder(path.replace("%", "%%"))}/{name}"'
