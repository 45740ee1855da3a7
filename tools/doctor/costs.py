"""What a step costs, stage by stage, and how long it takes when stages run beside each other: arithmetic."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from viewmill.pipelines.flow.flow import READ_THREADS
from viewmill.tools.doctor.beside import Slowdown

READ, DECODE, AUGMENT, COPY = "storage read", "decode", "augment", "host-to-device copy"
LOADER = (READ, DECODE, AUGMENT, COPY)
MAKING = (DECODE, AUGMENT)
# How sharply the slowest path decides. At 12 two equal paths take 6 % more than one of them, for they wait
# for each other whenever a batch takes longer than most; a path of half the length adds 0.002 %.
SHARPNESS = 12.0


Path = Mapping[str, float]  # seconds by stage


class Cost(NamedTuple):
    """Of one stage at one step of one rank, by itself."""

    wall_s: float
    cpu_s: float = 0.0  # of processors of this machine, all threads

    def times(self, factor: float) -> "Cost":
        return Cost(self.wall_s * factor, self.cpu_s * factor)


@dataclass(frozen=True)
class Costs:
    """All stages of a step of one rank.

    Attributes:
        loader: by the names in LOADER, `READ` by one thread; a stage that the run does not have is left out.
        training: what the training thread does, one after the other.
        cores: processors that this rank has for itself.
        slowdown: of making views and training beside each other; None: it was not measured.
    """

    loader: Mapping[str, Cost]
    training: Mapping[str, Cost]
    cores: float
    slowdown: Slowdown | None = None

    def with_loader(self, **changed: Cost) -> "Costs":
        """Other costs of loader stages; names with `_` for a space."""
        named = {name.replace("_", " "): cost for name, cost in changed.items()}
        return replace(self, loader={**self.loader, **named})

    def with_training(self, changed: Mapping[str, Cost]) -> "Costs":
        return replace(self, training={**self.training, **changed})


def paths(costs: Costs) -> dict[str, Path]:
    """What no step can be shorter than, as seconds of each stage on each path.

    Reading, making and copying views are done ahead, each in threads of its own, and so is the training: the
    slowest of them gives the pace. All of them together want the processors; where it was measured how much
    making and training hold each other up, that says it better.
    """
    making = {name: costs.loader[name].wall_s for name in MAKING if name in costs.loader}
    training = {name: cost.wall_s for name, cost in costs.training.items()}
    found = {
        "reading": {READ: costs.loader.get(READ, Cost(0.0)).wall_s / READ_THREADS},
        "copying": {COPY: costs.loader.get(COPY, Cost(0.0)).wall_s},
    }
    if costs.slowdown is None:
        everything = {**costs.loader, **costs.training}
        processors = {name: cost.cpu_s / costs.cores for name, cost in everything.items()}
        return {"training": training, "making": making, **found, "processors": processors}
    slow = costs.slowdown
    return {
        "training": _held_up(training, slow.training, making, slow.making),
        "making": _held_up(making, slow.making, training, slow.training),
        **found,
    }


def own_paths(costs: Costs) -> dict[str, Path]:
    """The paths of each thread as if nobody held it up."""
    found = paths(replace(costs, slowdown=None))
    return {name: path for name, path in found.items() if name != "processors"}


def _held_up(own: Path, slow: float, other: Path, other_slow: float) -> Path:
    """A path with what another one, which may wait for it, adds.

    While both are at work this one advances 1 / slow as fast, so in the time t = S' C' of the other one it
    falls behind by t (1 - 1 / S). It cannot fall behind for longer than it is at work itself.
    """
    own_s, other_s = slow * sum(own.values()), other_slow * sum(other.values())
    if own_s <= other_s:
        return {name: slow * seconds for name, seconds in own.items()}
    behind = other_slow * (1 - 1 / slow)
    return {**own, **{name: behind * seconds for name, seconds in other.items()}}


def step_s(costs: Costs) -> float:
    """Seconds of a step: the p-norm of its paths, p being SHARPNESS, which is a maximum with soft edges."""
    lengths = [sum(path.values()) for path in paths(costs).values()]
    longest = max(lengths)
    return longest * sum((length / longest) ** SHARPNESS for length in lengths) ** (1 / SHARPNESS)


def charges(costs: Costs) -> dict[str, float]:
    """Seconds of the step that each stage is answerable for; they add up to `step_s`.

    c_i dT/dc_i: what the step would gain by the share of a stage that is taken away, for small shares. By
    Euler's theorem these add up to T, since twice the costs take twice the time. A stage that is hidden
    behind a longer path is charged nothing.
    """
    total, found = step_s(costs), dict.fromkeys([*costs.loader, *costs.training], 0.0)
    for path in paths(costs).values():
        weight = (sum(path.values()) / total) ** (SHARPNESS - 1)
        for name, seconds in path.items():
            if name in found:
                found[name] += weight * seconds
    return found
