"""Check `clock`: how far each host's clock is from that of rank 0, by round trips, and how sure that is."""

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from viewmill.tools.preflight.verdict import FAIL, PASS, WARN, Seen, Verdict, passed

NAME = "clock"
ROUND_TRIPS = 20
# Files tell by their times which is newer, over hosts; stores refuse requests signed minutes off.
WARN_S, FAIL_S = 0.1, 1.0
WARN_UNCERTAINTY_S = 0.5


def measure(me: int, leaders: Sequence[int]) -> dict[str, Any]:
    """This host's clock minus rank 0's, seconds, and the most by which that may be wrong; {} for the others.

    Of a round trip that begins at a and ends at b by the own clock, rank 0's answer t was made in between:
    the offset is (a + b) / 2 - t, wrong by (b - a) / 2 at most. The shortest of the trips is taken.
    (Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.)

    Args:
        me: this rank. leaders: one of each host, rank 0 first; they take turns, and all of them must call.

    Raises:
        RuntimeError: a rank does not answer in time.
    """
    if me == leaders[0]:
        for leader in leaders[1:]:
            for _ in range(ROUND_TRIPS):
                dist.recv(torch.zeros(1, dtype=torch.int64), src=leader)
                dist.send(torch.tensor([now_ns()]), dst=leader)
        return {"offset_s": 0.0, "uncertainty_s": 0.0}
    if me not in leaders:
        return {}
    trips = [_round_trip(leaders[0]) for _ in range(ROUND_TRIPS)]
    offset_ns, uncertainty_ns = min(trips, key=lambda trip: trip[1])
    return {"offset_s": offset_ns / 1e9, "uncertainty_s": uncertainty_ns / 1e9}


def now_ns() -> int:
    """The clock that is judged."""
    return time.time_ns()


def _round_trip(leader: int) -> tuple[float, float]:
    answer = torch.zeros(1, dtype=torch.int64)
    begin = now_ns()
    dist.send(torch.zeros(1, dtype=torch.int64), dst=leader)
    dist.recv(answer, src=leader)
    end = now_ns()
    return begin + (end - begin) / 2 - int(answer), (end - begin) / 2


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """An offset that is certain to exceed a limit; an uncertainty that hides whether one does."""
    measured = [one for one in seen if one.facts]
    verdicts = [_of_host(one.host, **one.facts) for one in measured]
    most = max((abs(one.facts["offset_s"]) for one in measured), default=0.0)
    bad = [verdict for verdict in verdicts if verdict.status != PASS]
    return bad or [passed(NAME, f"within {1000 * most:.3g} ms of rank 0's")]


def _of_host(host: str, offset_s: float, uncertainty_s: float) -> Verdict:
    certain = abs(offset_s) - uncertainty_s
    status = FAIL if certain > FAIL_S else WARN if certain > WARN_S else PASS
    found = f"{offset_s:+.4g} s against rank 0's, ± {uncertainty_s:.2g} s"
    if status == PASS and uncertainty_s > WARN_UNCERTAINTY_S:
        status, found = WARN, f"{found}: the answers took too long to tell"
    return Verdict(
        NAME, status, host, found, "let a time service keep it there (chronyc tracking, timedatectl)"
    )
