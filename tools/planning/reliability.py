"""Goodput and the interval of checkpoints of a plan: in closed form and simulated."""

from typing import Any, NamedTuple

from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.failures import (
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
ENOUGH = 30  # failures in all runs of a candidate, below which their goodputs tell nothing of the interval


class Reliable(NamedTuple):
    """What failures do to a plan."""

    mtbf_s: float
    checkpointing: Checkpointing
    young_s: float
    daly_s: float
    exact_s: float  # the least of the closed form
    simulated_s: float | None  # the candidate with the highest simulated goodput; None: too few failures
    expected_goodput: float  # of the closed form: failures and checkpoints alone
    goodput: Goodput  # of the simulation at exact_s: slow nodes and the storage too
    hours: float  # with all of that


def checkpointing_of(plan: Plan) -> Checkpointing:
    """What a checkpoint stalls and when it is whole.

    A rank copies its share into the host's memory, while training waits, and a thread writes it; at stage 0
    each writes 1/W of it. Without `checkpoint.background` training waits for the write.
    """
    ranks = plan.cluster.world_size
    state = plan.work.weights * FLOAT32 * (1 + AVERAGES[plan.config.optimizer.name])
    stall_s = state / ranks / (1e9 * HOST_COPY_GB_S)
    write_s = state / plan.cluster.nodes / (1e9 * plan.cluster.storage_gb_s * STATE_WRITE_FRACTION)
    if plan.config.checkpoint.background:
        return Checkpointing(stall_s, write_s)
    return Checkpointing(stall_s + write_s, 0.0)


def reliability_of(made: Prediction, *, runs: int = 10, seed: int = 0) -> Reliable | None:
    """Of a prediction; None where nothing can fail."""
    plan = made.plan
    mtbf_s = mean_time_between_failures(plan.cluster)
    if mtbf_s == float("inf"):
        return None
    checkpointing = checkpointing_of(plan)
    restart_s = plan.cluster.reliability.restart_s
    # What can be lost and what a checkpoint costs: below a step nothing is saved.
    stall_s, work_s = max(checkpointing.stall_s, 1e-3), made.hours * 3600
    exact = max(made.step_s, best_interval(stall_s, mtbf_s, work_s))
    exact = min(exact, work_s)
    job = Job(work_s, exact, checkpointing, plan.cluster, buffer_s=plan.config.views.prefetch * made.step_s)
    tried = [job._replace(interval_s=min(work_s, max(made.step_s, share * exact))) for share in CANDIDATES]
    simulated = [(expected_goodput(one, runs=runs, seed=seed), one.interval_s) for one in tried]
    best = max(simulated, key=lambda found: found[0].goodput)
    at_exact = simulated[CANDIDATES.index(1.0)][0]
    return Reliable(
        mtbf_s=mtbf_s,
        checkpointing=checkpointing,
        young_s=young(stall_s, mtbf_s),
        daly_s=daly(stall_s, mtbf_s),
        exact_s=exact,
        simulated_s=best[1] if at_exact.failures * runs >= ENOUGH else None,
        expected_goodput=work_s / expected_wall_s(work_s, exact, stall_s, restart_s, mtbf_s),
        goodput=at_exact,
        hours=at_exact.wall_s / 3600,
    )


def with_rate(cluster: Cluster, per_node_day: float) -> Cluster:
    """The cluster with another rate of failures, as a logbook has it."""
    reliability = cluster.reliability.model_copy(update={"failures_per_node_day": per_node_day})
    return cluster.model_copy(update={"reliability": reliability})


def as_dict(found: Reliable | None) -> dict[str, Any] | None:
    """JSON-able."""
    if found is None:
        return None
    tree = found._asdict()
    return tree | {
        "checkpointing": found.checkpointing._asdict(),
        "goodput": found.goodput._asdict(),
    }
