"""`Written`: what a launch would write and run. Targets compute it, the front carries it out."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Command:
    """One process of a launch."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)  # on top of the launching process's own
    host: str | None = None  # where its work is done, for messages; None: where it was launched


@dataclass(frozen=True)
class Written:
    """Files by their names in RUN/launch, and the commands that run then: all at the same time."""

    files: dict[str, str]
    commands: list[Command]
