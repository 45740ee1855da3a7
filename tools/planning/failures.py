"""Failures and checkpoints: published rates, expected time in closed form, the best interval."""

# M mean time between failures, C cost of a checkpoint, R of a restart, tau work between two; seconds

import math
from typing import NamedTuple

from viewmill.tools.planning.cluster import Cluster

DAY = 86_400.0


class Logbook(NamedTuple):
    """A published rate of failures that ended a job."""

    name: str
    per_node_day: float  # of nodes with 8 GPUs
    source: str


LOGBOOKS = (
    Logbook(
        "Llama 3 405B",
        419 / (54 * 16384 / 8),
        "419 unexpected interruptions in 54 days on 16,384 H100: Llama 3 (arXiv 2407.21783), section 3.3.4",
    ),
    Logbook(
        "RSC-1",
        6.50 / 1000,
        "6.50 failures per 1,000 node-days, A100: Kokolis et al. (arXiv 2410.21680)",
    ),
    Logbook(
        "RSC-2",
        2.34 / 1000,
        "2.34 failures per 1,000 node-days, A100: Kokolis et al. (arXiv 2410.21680)",
    ),
    Logbook(
        "OPT-175B",
        (35 + 70) / (60 * 992 / 8),
        "at least 35 manual and about 70 automatic restarts in two months (60 days assumed) on 992 A100: "
        "OPT (arXiv 2205.01068), section 2.5",
    ),
)


class Checkpointing(NamedTuple):
    """What a checkpoint costs and when it counts."""

    stall_s: float  # C: training waits
    commit_s: float = (
        0.0  # after that, until it is whole on disk; a failure before falls back to the one before
    )


def mean_time_between_failures(cluster: Cluster) -> float:
    """M of the whole job; inf where nothing fails.

    Failures of nodes are independent and of constant rate, so those of the job are the sum.
    """
    rate = cluster.nodes * cluster.reliability.failures_per_node_day / DAY
    return 1 / rate if rate else math.inf


def young(stall_s: float, mtbf_s: float) -> float:
    """tau = sqrt(2 C M). Source: Young (1974), A first order approximation to the optimum interval."""
    return math.sqrt(2 * stall_s * mtbf_s)


def daly(stall_s: float, mtbf_s: float) -> float:
    """tau = sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18 M) - C, or M where C >= 2 M.

    Source: Daly (2006), A higher order estimate of the optimum checkpoint interval, equation 37.
    """
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    part = stall_s / (2 * mtbf_s)
    return young(stall_s, mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - stall_s


def expected_wall_s(
    work_s: float, interval_s: float, stall_s: float, restart_s: float, mtbf_s: float
) -> float:
    """M e^(R/M) (e^((tau + C)/M) - 1) work / tau, failures in a restart included; inf beyond floats' range.

    Source: Daly (2006), equation 20: exponential failures, a checkpoint counts when it is written.
    """
    if math.isinf(mtbf_s):
        return work_s * (1 + stall_s / interval_s)
    try:
        segment = mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((interval_s + stall_s) / mtbf_s)
    except OverflowError:
        return math.inf
    return segment * work_s / interval_s


def best_interval(stall_s: float, mtbf_s: float, work_s: float) -> float:
    """The interval with the least `expected_wall_s`, at most the whole work; restarts do not move it.

    Where the derivative by tau is zero, log(1 - tau/M) + tau/M = -C/M, of which the left side falls from 0.
    """
    if math.isinf(mtbf_s):
        return work_s
    low, high = 0.0, 1.0
    while high - low > 1e-15 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if math.log1p(-middle) + middle > -stall_s / mtbf_s:
            low = middle
        else:
            high = middle
    return min(work_s, high * mtbf_s)
