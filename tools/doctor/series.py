"""What the rounds of a measurement gave, and what is told of them: means of a block, medians over blocks."""

from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from viewmill.engine.spans import Part
from viewmill.tools.doctor.beside import Slowdown
from viewmill.tools.doctor.costs import Cost
from viewmill.tools.doctor.stopwatch import Lap

# Parts that are no matter of every step: they are counted by themselves, and each as often as the run has it.
_SELDOM = (Part.LOGGING.value, Part.CHECKPOINT.value)
Parts = dict[str, float]  # seconds of a step


class Fed(NamedTuple):
    """A step whose views are made meanwhile, and what it waits for them; seconds, or shares of the run's."""

    step_s: float
    wait_s: float


@dataclass
class Series:
    """What the rounds gave: one entry a round, seconds of a step."""

    together: list[Parts] = field(default_factory=list)
    together_cpu: list[float] = field(default_factory=list)
    logging: list[float] = field(default_factory=list)  # of a line
    checkpoint: list[float] = field(default_factory=list)  # of a checkpoint
    alone: dict[str, list[Parts]] = field(default_factory=lambda: defaultdict(list))  # by the trial
    alone_cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    loader: dict[str, list[Cost]] = field(default_factory=lambda: defaultdict(list))
    beside: list[Slowdown] = field(default_factory=list)
    fed: dict[str, list[Fed]] = field(default_factory=lambda: defaultdict(list))  # by the trial
    fed_s: list[float] = field(default_factory=list)  # of the run's settings

    def by_round(self) -> list[dict[str, Any]]:
        """What each round gave by the run's own settings, under the names of what is told of all rounds."""
        names = [name for name, found in self.loader.items() if len(found) == len(self.together)]
        return [
            {
                "together": parts,
                "alone": {"": self.alone[""][number]},
                "alone_cpu_s": {"": self.alone_cpu[""][number]},
                "loader": {name: self.loader[name][number] for name in names},
                "beside": self.beside[number] if self.beside else None,
            }
            for number, parts in enumerate(self.together)
        ]


def mean_parts(laps: list[Lap]) -> Parts:
    """Mean seconds of the parts of each step, without the seldom ones."""
    found: Parts = defaultdict(float)
    for lap in laps:
        for part, seconds in lap.parts().items():
            if part not in _SELDOM:
                found[part] += seconds / len(laps)
    return dict(found)


def median_parts(rounds: list[Parts]) -> Parts:
    """Median over the rounds of each part."""
    names = {name: None for parts in rounds for name in parts}
    return {name: median(parts.get(name, 0.0) for parts in rounds) for name in names}


def median_cost(rounds: list[Cost]) -> Cost:
    return Cost(median(cost.wall_s for cost in rounds), median(cost.cpu_s for cost in rounds))


def median_slowdown(rounds: list[Slowdown]) -> Slowdown:
    """Nothing is faster for having something beside it: what is below 1 is scatter."""
    training, making = (median(ratios) for ratios in zip(*rounds, strict=True))
    return Slowdown(max(1.0, training), max(1.0, making))


def median_fed(rounds: list[Fed]) -> Fed:
    return Fed(median(fed.step_s for fed in rounds), median(fed.wait_s for fed in rounds))
