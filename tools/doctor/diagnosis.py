"""From what the ranks measured to a verdict: the stage that holds the run up, and the change worth most."""

from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from viewmill.engine.config import RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.beside import Slowdown
from viewmill.tools.doctor.collectives import AGREEMENT, GRADIENT, STATISTICS
from viewmill.tools.doctor.costs import (
    AUGMENT,
    COPY,
    DECODE,
    READ,
    Cost,
    Costs,
    charges,
    own_paths,
    paths,
    step_s,
)
from viewmill.tools.doctor.stopwatch import LOOP

COMMUNICATION = "communication"
SENT = (GRADIENT, STATISTICS, AGREEMENT, Part.MEETING.value)
SELDOM = (Part.LOGGING.value, Part.CHECKPOINT.value)
# Of a step: what the others wait for one rank before it is told.
STRAGGLES = 0.1


@dataclass(frozen=True)
class Intervals:
    """Steps of the run from one line of the log, or one checkpoint, to the next; None: there is none."""

    log: int
    checkpoint: float | None


def intervals(config: RunConfig, steps_per_epoch: int) -> Intervals:
    """Of the recipe, whatever the measurement took."""
    every = config.checkpoint
    rates = [] if every.every_steps is None else [1 / every.every_steps]
    rates += [] if every.every_epochs is None else [1 / (every.every_epochs * steps_per_epoch)]
    return Intervals(config.log.every_steps, 1 / sum(rates) if rates else None)


def seldom_parts(rank: dict[str, Any], every: Intervals) -> dict[str, float]:
    """Logging and checkpoints as seconds of each step of the run."""
    checkpoint_s = rank["checkpoint_s"] / every.checkpoint if every.checkpoint else 0.0
    return {Part.LOGGING.value: rank["logging_s"] / every.log, Part.CHECKPOINT.value: checkpoint_s}


def observed_parts(rank: dict[str, Any], every: Intervals) -> dict[str, float]:
    """The training thread's step in the loop, part by part; communication is one of them."""
    found = {name: seconds for name, seconds in rank["together"].items() if name not in SENT}
    sent = sum(rank["together"].get(name, 0.0) for name in SENT)
    return {**found, COMMUNICATION: sent, **seldom_parts(rank, every)}


def slowest(ranks: list[dict[str, Any]], every: Intervals) -> int:
    """The rank that the others wait for: the one that waits least."""
    waits = [observed_parts(rank, every)[COMMUNICATION] for rank in ranks]
    return waits.index(min(waits))


def training_costs(
    rank: dict[str, Any], every: Intervals, trial: str = "", images: int = 1
) -> dict[str, Cost]:
    """The training thread's parts by themselves.

    The loop around a step, and the agreement of the ranks, occur in the loop alone.

    Args:
        trial: of which measurement, see `Rounds`. images: how many times as many images as the run's.
    """
    alone, together = rank["alone"][trial], rank["together"]
    total_s = sum(alone.values())
    busy = rank["alone_cpu_s"][trial] / total_s  # processors, for it is not known by part
    own = {name: s for name, s in alone.items() if name not in (*SENT, LOOP)}
    found = {name: Cost(seconds, seconds * busy) for name, seconds in own.items()}
    sent_s = sum(alone.get(name, 0.0) for name in (GRADIENT, STATISTICS))
    agreed_s = sum(together.get(name, 0.0) for name in (AGREEMENT, Part.MEETING.value))
    loop_s = max(together.get(LOOP, 0.0), alone.get(LOOP, 0.0))
    found[COMMUNICATION] = Cost(sent_s + agreed_s, sent_s * busy)
    found[LOOP] = Cost(loop_s, loop_s)
    return found | {name: Cost(seconds) for name, seconds in seldom_parts(rank, every).items()}


def loader_costs(rank: dict[str, Any]) -> dict[str, Cost]:
    """The loader's stages by themselves; where decoding is not told apart, it is in `AUGMENT`."""
    measured = {name: Cost(*cost) for name, cost in rank["loader"].items()}
    make, decode = measured["make"], measured.get("decode")
    found = {READ: measured["read"]} if "read" in measured else {}
    found |= divided(make, decode) if decode is not None else {AUGMENT: make}
    return found | ({COPY: measured["copy"]} if "copy" in measured else {})


def divided(make: Cost, decode: Cost) -> dict[str, Cost]:
    """Making views as decoding, and all the rest."""
    first = Cost(min(make.wall_s, decode.wall_s), min(make.cpu_s, decode.cpu_s))
    return {DECODE: first, AUGMENT: Cost(make.wall_s - first.wall_s, make.cpu_s - first.cpu_s)}


def costs_of(rank: dict[str, Any], every: Intervals) -> Costs:
    """All stages of a rank by themselves."""
    beside = None if rank["beside"] is None else Slowdown(*rank["beside"])
    return Costs(loader_costs(rank), training_costs(rank, every), rank["cores"], beside)


def straggler(ranks: list[dict[str, Any]], every: Intervals) -> dict[str, Any] | None:
    """The rank that holds the others up, by which part, and for how long; None: they keep pace.

    The part is the one that takes most longer there than in the mean of the others.
    """
    if len(ranks) == 1:
        return None
    number = slowest(ranks, every)
    parts = [observed_parts(rank, every) for rank in ranks]
    others = [one for other, one in enumerate(parts) if other != number]

    def mean(name: str) -> float:
        return sum(one.get(name, 0.0) for one in others) / len(others)

    waited_s = mean(COMMUNICATION) - parts[number][COMMUNICATION]
    if waited_s < STRAGGLES * sum(parts[number].values()):
        return None
    own = [name for name in parts[number] if name != COMMUNICATION]
    part = max(own, key=lambda name: parts[number][name] - mean(name))
    return {
        "rank": number,
        "part": part,
        "seconds": parts[number][part],
        "elsewhere_s": mean(part),
        "waited_s": waited_s,
    }


def diagnose(ranks: list[dict[str, Any]], every: Intervals, images: int) -> dict[str, Any]:
    """The stages of the rank that the others wait for, and which of them binds.

    Args:
        ranks: figures of each, see `Rounds.figures`, with `cores`.
        images: of a step, over all ranks.

    Returns:
        JSON-able: rank, step_s and images_per_s (in the loop), model_step_s (of the stages alone, run
        beside each other), unexplained_s, stages [{name, alone_s, cpu_s, observed_s, charged_s, share,
        images_per_s: its ceiling, without_it: images/s if it took nothing}], slowdown {training, making}
        (see `Slowdown`, or None), binding, paths, straggler.
    """
    number = slowest(ranks, every)
    rank = ranks[number]
    observed, costs = observed_parts(rank, every), costs_of(rank, every)
    measured_s = sum(observed.values())
    model_s = measured_s * explained(rank, every)
    charged = {name: model_s * seconds / step_s(costs) for name, seconds in charges(costs).items()}
    alone = {**costs.loader, **costs.training}
    stages = [
        {
            "name": name,
            "alone_s": alone[name].wall_s,
            "cpu_s": alone[name].cpu_s,
            "observed_s": observed.get(name),
            "charged_s": seconds,
            "share": seconds / model_s,
            "ceiling": ceiling(costs, name, images),
            "without_it": images / (measured_s * without(costs, name) / step_s(costs)),
        }
        for name, seconds in charged.items()
    ]
    return {
        "rank": number,
        "step_s": measured_s,
        "images_per_s": images / measured_s,
        "model_step_s": model_s,
        "unexplained_s": measured_s - model_s,
        "data_wait_s": observed.get(Part.DATA.value, 0.0),
        "stages": stages,
        "slowdown": None if costs.slowdown is None else costs.slowdown._asdict(),
        "observed": observed,
        "paths": {name: sum(path.values()) for name, path in paths(costs).items()},
        "binding": max((name for name in charged if name != LOOP), key=lambda name: charged[name]),
        "straggler": straggler(ranks, every),
    }


def explained(rank: dict[str, Any], every: Intervals) -> float:
    """The step of the stages alone as a share of the measured one, the median over the rounds.

    Each round's step is held against the stages of that round, which takes seconds: a machine's speed drifts.
    """
    # A round in which nothing was made, for enough stood ready, has the other rounds' cost of it.
    rounds = [
        {**rank, **one, "loader": {**rank["loader"], **one.get("loader", {})}} for one in rank["rounds"]
    ]
    return median(step_s(costs_of(one, every)) / sum(observed_parts(one, every).values()) for one in rounds)


def ceiling(costs: Costs, name: str, images: int) -> float | None:
    """Images/s of a stage that nothing else holds up, on its own threads; None: it takes no time."""
    longest = max(path.get(name, 0.0) for path in own_paths(costs).values())
    return images / longest if longest > 0 else None


def without(costs: Costs, name: str) -> float:
    """Seconds of a step in which this stage takes nothing."""
    nothing = Cost(0.0)
    loader = {one: nothing if one == name else cost for one, cost in costs.loader.items()}
    training = {one: nothing if one == name else cost for one, cost in costs.training.items()}
    return step_s(replace(costs, loader=loader, training=training))
