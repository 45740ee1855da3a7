"""`Written`: what a launch would write and run. Targets compute it, the front carries it out."""

from dataclasses import dataclass, field

from viewmill.tools.launch.rank_variables import Variable


@dataclass(frozen=True)
class Command:
    """One process of a launch."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)  # on top of the launching process's own
    host: str | None = None  # where its work is done, for messages; None: where it was launched
    # It runs lease.sh: it reads the launcher's words from stdin, and ends what it started where they end.
    leased: bool = False
    attends: bool = False  # leased, and does no work itself: it ends when the other commands have ended


@dataclass(frozen=True)
class Written:
    """Files by their names in RUN/launch, and the commands that run then: all at the same time."""

    files: dict[str, str]
    commands: list[Command]
    checks: list[Command] = field(default_factory=list)  # run before, and all must end with 0
    hosts: list[str] = field(default_factory=list)  # in the order of their ranks, where they are known
    is_over: bool = True  # the training, when the commands have ended; False: they hand it to a queue
    folder: str | None = None  # instead of the run's, which this machine does not see
    # Of SLURM, by folder that the job trains into: what follows the job's number, '' or of an array '_3'.
    tasks: dict[str, str] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)  # of every rank


def needs(program: str, remedy: str = "install it") -> Command:
    """A check that the launching machine has a program."""
    words = 'command -v "$0" >/dev/null || { echo "no program $0; $1" >&2; exit 1; }'
    return Command(["bash", "-c", words, program, remedy])


def launch_folder(run: str) -> str:
    """Where the files of a launch lie."""
    return f"{run}/launch"
