"""What other settings would give: by steps that were tried, or by their stages and arithmetic."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from viewmill.engine.config import RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.costs import AUGMENT, DECODE, Cost, Costs, step_s
from viewmill.tools.doctor.diagnosis import (
    COMMUNICATION,
    SENT,
    Intervals,
    costs_of,
    divided,
    seldom_parts,
    training_costs,
)
from viewmill.tools.doctor.series import Fed
from viewmill.tools.doctor.stopwatch import LOOP

LEAST_GAIN = 0.03  # of images/s; less is within what a measurement leaves open
NEIGHBOURS = "neighbours"  # the trial that reads samples which lie beside each other
FEWER_LINES = 10
FEWER_CHECKPOINTS = 4


@dataclass(frozen=True)
class Change:
    """A setting, and the throughput that is predicted with it."""

    name: str  # what kind of change: threads, torch threads, resolution, batch, ...
    setting: str  # as it is typed
    images_per_s: float
    gain: float  # of images/s, as a share of the run's
    note: str = ""
    changes_training: bool = False  # another model comes out


def predicted(
    rank: dict[str, Any], config: RunConfig, every: Intervals, step_now_s: float
) -> list[dict[str, Any]]:
    """All changes that were tried, the best one first.

    T(new) = T(measured) x the share of the run's step that one takes by other settings. That share was
    measured where views are made on the host, by steps that wait for their views; else it is T(model of the
    changed stages) / T(model of the run's), and what the model leaves unexplained is taken to stay in
    proportion.

    Args:
        rank: figures of the rank that the others wait for.
        step_now_s: as measured in the loop.
    """
    now = costs_of(rank, every)
    now_s = step_s(now)
    modelled = [*_modelled(rank, every, now), *_seldom(every, now)]
    shares = tried_shares(rank, every) | {name: step_s(costs) / now_s for name, costs in modelled}
    found = []
    for name, share in shares.items():
        kind, setting, images, note = described(name, config, every)
        per_s = config.batch_size * images / (share * step_now_s)
        found.append(Change(kind, setting, per_s, images / share - 1, note, kind in ("batch", "resolution")))
    return [asdict(change) for change in sorted(found, key=lambda change: -change.gain)]


def tried_shares(rank: dict[str, Any], every: Intervals) -> dict[str, float]:
    """Of the run's step, what one takes by the settings that were tried.

    A tried step has no loop around it, no agreement of ranks and no lines of a log. What those take is hidden
    as far as the step waits for its views, and is added where it does not.
    """
    fed = {name: Fed(*found) for name, found in rank["fed"].items()}
    if not fed:
        return {}
    around = around_s(rank, every) / rank["fed_s"]
    shares = {name: one.step_s + max(0.0, around - one.wait_s) for name, one in fed.items()}
    as_set = shares.pop("")
    return {name: share / as_set for name, share in shares.items()}


def around_s(rank: dict[str, Any], every: Intervals) -> float:
    """Seconds of the training thread at each step that are no part of the step itself."""
    costs = training_costs(rank, every)
    agreed_s = costs[COMMUNICATION].wall_s - sum(rank["alone"][""].get(name, 0.0) for name in SENT)
    own_s = costs[LOOP].wall_s - rank["alone"][""].get(LOOP, 0.0)
    return own_s + max(0.0, agreed_s) + sum(seldom_parts(rank, every).values())


def described(name: str, config: RunConfig, every: Intervals) -> tuple[str, str, int, str]:
    """Of a trial: the kind of change, how it is typed, how many times as many images it has, and a note."""
    kind, _, value = name.rpartition(" ")
    if kind == "threads":
        return "threads", f"views.num_threads={value}", 1, ""
    if kind == "torch threads":
        return kind, f"torch_threads={value}", 1, ""
    if kind == "short":
        note = "a smaller copy of the data set: views of small crops are less sharp"
        return "resolution", f"convert --resize short={value}", 1, note
    if name == "double":
        note = "another batch is another training: the learning rate goes with it"
        return "batch", f"batch_size={2 * config.batch_size}", 2, note
    if name == NEIGHBOURS:
        note = "blocks of neighbours: see viewmill inspect --shuffle; at most this, block by block"
        return "reads", "views.block=64 views.window=4096", 1, note
    if name == Part.LOGGING.value:
        return name, f"log.every_steps={FEWER_LINES * every.log}", 1, ""
    if name == Part.CHECKPOINT.value:
        steps = max(2, round(FEWER_CHECKPOINTS * (every.checkpoint or 0.0)))
        setting = f"checkpoint.every_epochs=null checkpoint.every_steps={steps}"
        return name, setting, 1, "a run that is stopped loses more steps"
    return "executor", f"views.executor={name}", 1, ""


def _modelled(rank: dict[str, Any], every: Intervals, now: Costs) -> Iterator[tuple[str, Costs]]:
    """The costs of a step by the settings whose own stages were measured alone."""
    measured = {name: Cost(*cost) for name, cost in rank["loader"].items()}
    for name, cost in measured.items():
        kind, _, _ = name.partition(" ")
        if kind in ("threads", "host", "dali"):
            yield name, _scaled(now, measured["make"], cost)
        elif kind == "short":
            parts = divided(cost, measured[f"decode {name}"])
            yield name, now.with_loader(decode=parts[DECODE], augment=parts[AUGMENT])
        elif name == NEIGHBOURS:
            yield name, now.with_loader(storage_read=cost)
    for trial in rank["alone"]:
        if trial.startswith("torch threads "):
            yield trial, now.with_training(training_costs(rank, every, trial))
        elif trial == "double":
            loader = {name: cost.times(2) for name, cost in now.loader.items()}
            yield trial, replace(now, loader=loader, training=training_costs(rank, every, trial))


def _scaled(now: Costs, make: Cost, other: Cost) -> Costs:
    """With another time for making views; decoding is the same share of it."""
    factors = Cost(other.wall_s / make.wall_s, other.cpu_s / max(make.cpu_s, 1e-9))
    loader = {
        name: Cost(cost.wall_s * factors.wall_s, cost.cpu_s * factors.cpu_s)
        for name, cost in now.loader.items()
        if name in (DECODE, AUGMENT)
    }
    return replace(now, loader={**now.loader, **loader})


def _seldom(every: Intervals, now: Costs) -> Iterator[tuple[str, Costs]]:
    """Fewer lines of the log, and fewer checkpoints where there are some."""
    rarer = [(Part.LOGGING, FEWER_LINES)]
    rarer += [(Part.CHECKPOINT, FEWER_CHECKPOINTS)] if every.checkpoint is not None else []
    for part, times in rarer:
        yield part.value, now.with_training({part.value: now.training[part.value].times(1 / times)})


def best(changes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one worth most that trains the same model on the same bytes, else the one worth most."""
    worth = [change for change in changes if change["gain"] >= LEAST_GAIN]
    same = [change for change in worth if not change["changes_training"]]
    return next(iter(same or worth), None)
