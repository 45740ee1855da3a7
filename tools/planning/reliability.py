"""Goodput and the interval of checkpoints of a plan: in closed form and simulated."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from viewmill.engine.config import RunConfig
from viewmill.engine.method_config import DistillConfig
from viewmill.engine.trainer import last_step
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.failures import (
    DAY,
    LOGBOOKS,
    Checkpointing,
    best_interval,
    daly,
    expected_wall_s,
    mean_time_between_failures,
    young,
)
from viewmill.tools.planning.predict import Plan, Prediction
from viewmill.tools.planning.rank_memory import AVERAGES
from viewmill.tools.planning.simulation import Goodput, Job, expected_goodput
from viewmill.tools.planning.workload import FLOAT32

HOST_COPY_GB_S = 10.0  # of a rank's state into the host's memory: PCIe 3 or 4 in part; assumption
STATE_WRITE_FRACTION = 0.5  # of the storage's reading bandwidth that writing reaches; assumption
CANDIDATES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the closed form's interval, which are simulated
NEVER = 0.01  # goodput of the closed form below which a run is said never to end, and not simulated
ENOUGH = 30  # failures in all runs of a candidate, below which their goodputs tell nothing of the interval


class Tried(NamedTuple):
    """One interval of checkpoints, and what is said of it."""

    interval_s: float
    checkpointing: Checkpointing
    closed_form: float  # goodput of failures and checkpoints alone
    goodput: Goodput | None  # simulated: slow nodes and the storage too; None: below NEVER, not simulated

    @property
    def hours(self) -> float | None:
        return None if self.goodput is None else self.goodput.wall_s / 3600


class Reliable(NamedTuple):
    """What failures do to a plan."""

    mtbf_s: float
    young_s: float
    daly_s: float
    best: Tried  # at the interval with the least time of the closed form
    best_steps: int  # as checkpoint.every_steps
    own: Tried  # at the interval that the recipe has
    own_steps: int
    simulated_s: float | None  # the candidate with the highest simulated goodput; None: too few failures

    @property
    def hours(self) -> float | None:
        """With all of that, at the recipe's interval; None: it is never done."""
        return self.own.hours


def checkpointing_of(plan: Plan) -> Checkpointing:
    """What a checkpoint stalls and when it is whole.

    A rank copies its share into the host's memory, while training waits, and a thread writes it; at stage 0
    each writes 1/W of it. Without `checkpoint.background` training waits for the write. A distillation's
    teacher is written too.
    """
    ranks = plan.cluster.world_size
    copies = 1 + AVERAGES[plan.config.optimizer.name] + isinstance(plan.config.method, DistillConfig)
    state = plan.work.weights * FLOAT32 * copies
    stall_s = state / ranks / (1e9 * HOST_COPY_GB_S)
    write_s = state / plan.cluster.nodes / (1e9 * plan.cluster.storage_gb_s * STATE_WRITE_FRACTION)
    if plan.config.checkpoint.background:
        return Checkpointing(stall_s, write_s)
    return Checkpointing(stall_s + write_s, 0.0)


def at_interval(checkpointing: Checkpointing, interval_s: float) -> Checkpointing:
    """With so much work between two: a checkpoint that begins before the last one is whole waits for it."""
    stall_s, commit_s = checkpointing
    return Checkpointing(stall_s + max(0.0, commit_s - interval_s), commit_s)


def own_interval(config: RunConfig, steps_per_epoch: int) -> int:
    """Steps between two checkpoints of the recipe, their mean where it asks by steps and by epochs.

    The whole run where it asks for neither, or for none before the end, which has one always.
    """
    total, asked = last_step(config, steps_per_epoch), config.checkpoint
    by_steps = asked.every_steps or total
    by_epochs = asked.every_epochs * steps_per_epoch if asked.every_epochs is not None else total
    if max(by_steps, by_epochs) >= total:
        return min(by_steps, by_epochs, total)
    count = total // by_steps + total // by_epochs - total // math.lcm(by_steps, by_epochs)
    return total // count


def simulations(runs: int) -> int:
    """That `reliability_of` makes at most."""
    return runs * (len(CANDIDATES) + 1)


def reliability_of(
    made: Prediction, *, runs: int = 10, seed: int = 0, progress: Callable[[], None] | None = None
) -> Reliable | None:
    """Of a prediction; None where nothing can fail. `progress` is called after each simulated run."""
    plan = made.plan
    mtbf_s = mean_time_between_failures(plan.cluster)
    if math.isinf(mtbf_s):
        return None
    work_s = made.hours * 3600
    stall_s, exact = closed_form_interval(made, mtbf_s)

    def tried(interval_s: float) -> Tried:
        interval_s = min(work_s, max(made.step_s, interval_s))
        checkpointing = at_interval(checkpointing_of(plan), interval_s)
        expected = goodput_at(made, interval_s, mtbf_s)
        job = Job(
            work_s, interval_s, checkpointing, plan.cluster, buffer_s=plan.config.views.prefetch * made.step_s
        )
        is_hopeless = expected < NEVER
        found = None if is_hopeless else expected_goodput(job, runs=runs, seed=seed, progress=progress)
        return Tried(interval_s, checkpointing, expected, found)

    candidates = {share: tried(share * exact) for share in CANDIDATES}
    best = candidates[1.0]
    own_steps = own_interval(plan.config, made.steps_per_epoch)
    return Reliable(
        mtbf_s=mtbf_s,
        young_s=young(stall_s, mtbf_s),
        daly_s=daly(stall_s, mtbf_s),
        best=best,
        best_steps=max(1, round(best.interval_s / made.step_s)),
        own=tried(own_steps * made.step_s),
        own_steps=own_steps,
        simulated_s=best_simulated(list(candidates.values()), best),
    )


def closed_form_interval(made: Prediction, mtbf_s: float) -> tuple[float, float]:
    """(what a checkpoint costs, the interval with the least time), seconds; no interval is below a step, nor
    below what a checkpoint in the background is written in, which the next one would wait for.
    """
    stall_s, commit_s = checkpointing_of(made.plan)
    # What can be lost and what a checkpoint costs: below a step nothing is saved.
    stall_s, work_s = max(stall_s, 1e-3), made.hours * 3600
    return stall_s, min(work_s, max(made.step_s, commit_s, best_interval(stall_s, mtbf_s, work_s)))


def goodput_at(made: Prediction, interval_s: float, mtbf_s: float) -> float:
    """Of the closed form: failures and checkpoints alone."""
    work_s, restart_s = made.hours * 3600, made.plan.cluster.reliability.restart_s
    stall_s = max(at_interval(checkpointing_of(made.plan), interval_s).stall_s, 1e-3)
    return work_s / expected_wall_s(work_s, interval_s, stall_s, restart_s, mtbf_s)


def best_simulated(candidates: list[Tried], exact: Tried) -> float | None:
    """The interval with the highest simulated goodput; None where too few failures were seen to tell."""
    if exact.goodput is None or exact.goodput.failures * exact.goodput.runs < ENOUGH:
        return None
    found = {one.interval_s: one.goodput.goodput for one in candidates if one.goodput is not None}
    return max(found, key=lambda interval_s: found[interval_s])


def with_rate(cluster: Cluster, per_node_day: float) -> Cluster:
    """The cluster with another rate of failures, as a logbook has it."""
    reliability = cluster.reliability.model_copy(update={"failures_per_node_day": per_node_day})
    return cluster.model_copy(update={"reliability": reliability})


def goodput_by_logbook(made: Prediction) -> dict[str, tuple[float, float]]:
    """What the published rates would do to this job: name -> (mean days between failures, goodput of the
    closed form at its best interval).
    """
    found = {}
    for book in LOGBOOKS:
        other = made._replace(
            plan=made.plan._replace(cluster=with_rate(made.plan.cluster, book.per_node_day))
        )
        mtbf_s = mean_time_between_failures(other.plan.cluster)
        interval_s = closed_form_interval(other, mtbf_s)[1]
        found[book.name] = (mtbf_s / DAY, goodput_at(other, interval_s, mtbf_s))
    return found


def as_dict(found: Reliable | None) -> dict[str, Any] | None:
    """JSON-able."""
    if found is None:
        return None
    return found._asdict() | {
        "best": tried_as_dict(found.best),
        "own": tried_as_dict(found.own),
        "hours": found.hours,
    }


def tried_as_dict(tried: Tried) -> dict[str, Any]:
    """JSON-able."""
    simulated = None if tried.goodput is None else tried.goodput._asdict()
    return tried._asdict() | {
        "checkpointing": tried.checkpointing._asdict(),
        "goodput": simulated,
        "hours": tried.hours,
    }
