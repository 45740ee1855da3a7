"""`Job`: what is trained and on how many ranks, whatever starts it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

TRAIN_MODULE = "viewmill.tools.train"


@dataclass(frozen=True)
class Job:
    """One training, as `viewmill launch` was asked for it; paths hold on every host.

    Raises:
        ValueError: a count or the port is out of range, or the folder's name has a line break.
    """

    recipe: str  # a path, or the name of a shipped recipe
    data: str  # a data set's folder or URL
    out: str  # the run's folder, absolute; every host sees it
    overrides: tuple[str, ...] = ()  # key=value
    nodes: int = 1
    ranks_per_node: int = 1
    python: str = "python3"  # the interpreter of every host
    port: int = 29500  # where the ranks meet, on the first host
    env: Mapping[str, str] = field(default_factory=dict)  # for every rank
    resume: bool = False
    max_restarts: int = 0  # times that all ranks are started again after a failure
    preflight: bool = False  # the ranks look whether their machines are fit, before they train
    judged_on: str | None = None  # train --on: labelled images that judge the backbone between epochs

    def __post_init__(self) -> None:
        for name, least in (("nodes", 1), ("ranks_per_node", 1), ("max_restarts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if "\n" in self.out:
            raise ValueError(f"out {self.out!r} has a line break; take another folder")
        if not 1024 <= self.port <= 65535:
            raise ValueError(f"port must lie in 1024..65535, got {self.port}")

    @property
    def world_size(self) -> int:
        return self.nodes * self.ranks_per_node

    def train_arguments(self) -> list[str]:
        """What follows `-m viewmill.tools.train`.

        With restarts always --resume, which begins a run that has nothing saved: not every host's torchrun
        counts a restart, so the ranks would disagree about it.
        """
        judge = [] if self.judged_on is None else ["--on", self.judged_on]
        resume = ["--resume"] if self.resume or self.max_restarts else []
        look = ["--preflight"] if self.preflight else []
        given = [*judge, *resume, *look, *self.overrides]
        return [self.recipe, "--data", self.data, "--out", self.out, *given]
