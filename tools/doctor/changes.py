"""What other settings would give: each change's own stages were measured alone, the rest is arithmetic."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from viewmill.engine.config import RunConfig
from viewmill.engine.spans import Part
from viewmill.tools.doctor.beside import Slowdown
from viewmill.tools.doctor.costs import AUGMENT, DECODE, Cost, Costs, step_s
from viewmill.tools.doctor.diagnosis import Intervals, costs_of, divided, slowdown_of, training_costs

LEAST_GAIN = 0.03  # of images/s; less is within what a measurement leaves open
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

    T(new) = T(measured) x T(model of the changed stages) / T(model of the run's): what the model leaves
    unexplained is taken to stay in proportion.

    Args:
        rank: figures of the rank that the others wait for.
        step_now_s: as measured in the loop.
    """
    now = costs_of(rank, every)
    now_s = step_s(now)
    found = []
    for name, setting, costs, images, note in candidates(rank, config, every, now):
        factor = images * now_s / step_s(costs)
        per_s = config.batch_size * factor / step_now_s
        found.append(Change(name, setting, per_s, factor - 1, note, name in ("batch", "resolution")))
    return [asdict(change) for change in sorted(found, key=lambda change: -change.gain)]


Candidate = tuple[str, str, Costs, int, str]


def candidates(rank: dict[str, Any], config: RunConfig, every: Intervals, now: Costs) -> list[Candidate]:
    """(kind, setting, costs of a step, how many times as many images it has, note)."""
    found = _loader_candidates(rank, now)
    for trial in rank["alone"]:
        if trial.startswith("threads "):
            threads = trial.removeprefix("threads ")
            changed = now.with_training(training_costs(rank, every, trial))
            changed = replace(changed, slowdown=slowdown_of(rank, f"torch {trial}"))
            found.append(("torch threads", f"torch_threads={threads}", changed, 1, ""))
    if "double" in rank["alone"]:
        loader = {name: cost.times(2) for name, cost in now.loader.items()}
        changed = replace(now, loader=loader, training=training_costs(rank, every, "double"))
        note = "another batch is another training: the learning rate goes with it"
        found.append(("batch", f"batch_size={2 * config.batch_size}", changed, 2, note))
    return found + _seldom_candidates(config, every, now)


def _loader_candidates(rank: dict[str, Any], now: Costs) -> list[Candidate]:
    measured = {name: Cost(*cost) for name, cost in rank["loader"].items()}
    found: list[Candidate] = []
    for name, cost in measured.items():
        kind, _, value = name.partition(" ")
        slowdown = slowdown_of(rank, name)
        if kind == "threads":
            changed = _scaled(now, measured["make"], cost, slowdown)
            found.append(("threads", f"views.num_threads={value}", changed, 1, ""))
        elif kind == "short":
            parts = divided(cost, measured[f"decode {name}"])
            changed = now.with_loader(decode=parts[DECODE], augment=parts[AUGMENT])
            changed = replace(changed, slowdown=slowdown)
            note = "a smaller copy of the data set: views of small crops are less sharp"
            found.append(("resolution", f"convert --resize short={value}", changed, 1, note))
        elif kind == "neighbours":
            changed = now.with_loader(storage_read=cost)
            note = "blocks of neighbours: see viewmill inspect --shuffle; at most this, block by block"
            found.append(("reads", "views.block=64 views.window=4096", changed, 1, note))
        elif kind in ("host", "dali"):
            changed = _scaled(now, measured["make"], cost, slowdown)
            found.append(("executor", f"views.executor={kind}", changed, 1, ""))
    return found


def _scaled(now: Costs, make: Cost, other: Cost, slowdown: Slowdown | None) -> Costs:
    """With another time for making views; decoding is the same share of it."""
    factors = Cost(other.wall_s / make.wall_s, other.cpu_s / max(make.cpu_s, 1e-9))
    loader = {
        name: Cost(cost.wall_s * factors.wall_s, cost.cpu_s * factors.cpu_s)
        for name, cost in now.loader.items()
        if name in (DECODE, AUGMENT)
    }
    return replace(now, loader={**now.loader, **loader}, slowdown=slowdown)


def _seldom_candidates(config: RunConfig, every: Intervals, now: Costs) -> list[Candidate]:
    def rarer(part: Part, times: int) -> Costs:
        return now.with_training({part.value: now.training[part.value].times(1 / times)})

    lines, found = FEWER_LINES * every.log, list[Candidate]()
    found.append(("logging", f"log.every_steps={lines}", rarer(Part.LOGGING, FEWER_LINES), 1, ""))
    if every.checkpoint is not None:
        steps = max(2, round(FEWER_CHECKPOINTS * every.checkpoint))
        setting = f"checkpoint.every_epochs=null checkpoint.every_steps={steps}"
        note = "a run that is stopped loses more steps"
        found.append(("checkpoint", setting, rarer(Part.CHECKPOINT, FEWER_CHECKPOINTS), 1, note))
    return found


def best(changes: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The one worth most that trains the same model on the same bytes, else the one worth most."""
    worth = [change for change in changes if change["gain"] >= LEAST_GAIN]
    same = [change for change in worth if not change["changes_training"]]
    return next(iter(same or worth), None)
