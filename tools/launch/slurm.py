"""SLURM: a batch script that starts one torchrun a node, is requeued before its time is up, and goes on."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, field_validator
from viewmill.engine.strict import StrictModel
from viewmill.tools.launch.job import TRAIN_MODULE, Job
from viewmill.tools.launch.template import render
from viewmill.tools.launch.written import Command, Written

SCRIPT = "slurm.sh"


class Options(StrictModel):
    """What sbatch is asked for; None leaves it to the cluster."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None  # limit, as sbatch reads it: minutes, hours:minutes:seconds, days-hours
    gpus_per_node: str | None = None  # a number, or type:number
    cpus_per_node: int | None = Field(default=None, ge=1)
    mem: str | None = None  # of a node, as sbatch reads it: 200G
    constraint: str | None = None
    sbatch: tuple[str, ...] = Field(default=(), strict=False)  # further options of sbatch: --exclusive
    srun: tuple[str, ...] = Field(default=(), strict=False)  # of srun: --container-image=...
    setup: tuple[str, ...] = Field(default=(), strict=False)  # lines of shell before all: module load cuda
    # Seconds before the limit at which the ranks are told to save; SLURM may tell them a minute earlier.
    signal_seconds: int = Field(default=120, ge=1, le=65535)
    parallel: int | None = Field(default=None, ge=1)  # runs of a sweep at the same time; None: no limit
    wait: bool = False  # sbatch comes back when the job has ended, with its exit code

    @field_validator("partition", "account", "qos", "time", "gpus_per_node", "mem", "constraint")
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
        ValueError: the folder's name cannot stand in a batch script.
    """
    return write_array([job], options, Path(job.out), "viewmill-" + Path(job.out).name, is_array=False)


def write_array(
    jobs: Sequence[Job], options: Options, folder: Path, name: str, *, is_array: bool = True
) -> Written:
    """The script of several runs, which are the tasks of one job array, and the sbatch that submits it.

    Args:
        jobs: alike but for `out` and `overrides`.
        folder: the script and its output go to launch/ in it.
        name: of the job.

    Raises:
        ValueError: the folder's name cannot stand in a batch script.
    """
    script = f"{folder}/launch/{SCRIPT}"
    first = jobs[0]
    text = render(
        "slurm.sh.j2",
        job=first,
        jobs=jobs,
        is_array=is_array,
        options=options,
        script=script,
        directives=directives(jobs, options, folder, name, is_array),
        srun=[f"--ntasks={first.nodes}", "--ntasks-per-node=1", *options.srun],
        torchrun=torchrun(first),
        module=TRAIN_MODULE,
    )
    wait = ["--wait"] if options.wait else []
    return Written({SCRIPT: text}, [Command(["sbatch", *wait, script])])


def directives(jobs: Sequence[Job], options: Options, folder: Path, name: str, is_array: bool) -> list[str]:
    """The lines after #SBATCH."""
    given = {
        "job-name": "".join(char if char.isalnum() or char in "._-=," else "-" for char in name),
        "nodes": jobs[0].nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": options.cpus_per_node,
        "gpus-per-node": options.gpus_per_node,
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


def array_of(count: int, parallel: int | None) -> str:
    """The numbers of the tasks: 0-7%2 is eight, two of them at the same time."""
    return f"0-{count - 1}" + ("" if parallel is None else f"%{parallel}")


def output_of(folder: Path, is_array: bool) -> str:
    """Where the output goes, quoted for an #SBATCH line, in which % begins a number of SLURM's.

    Raises:
        ValueError: no quoting helps.
    """
    path = str(folder)
    if not path.isprintable() or '"' in path or "\\" in path:
        raise ValueError(
            f"{path!r}: quotes, backslashes and control characters cannot stand in a batch script"
        )
    name = "slurm-%A_%a.out" if is_array else "slurm-%j.out"
    return f'"{path.replace("%", "%%")}/launch/{name}"'


def torchrun(job: Job) -> list[str]:
    """The words of torchrun on every node, but for where the nodes meet."""
    counts = [f"--nproc-per-node={job.ranks_per_node}", f"--max-restarts={job.max_restarts}"]
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"  # it would die of USR1
    return [job.python, "-m", "torch.distributed.run", *counts, signals]
