"""A preflight from beginning to end, as every rank runs it: gather, meet, measure, judge."""

import functools
import socket
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from viewmill.tools.preflight import dataset, disk, gpus, network
from viewmill.tools.preflight.checks import judged, local_tasks, reading_task
from viewmill.tools.preflight.gathering import Facts, gathered
from viewmill.tools.preflight.meeting import Meeting
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL, Verdict, worst

RANKS = "ranks"
LEAVING_S = 5.0


@dataclass(frozen=True)
class Report:
    """What rank 0 knows at the end. hosts: of each rank that came; facts: by rank and check."""

    world_size: int
    hosts: dict[int, str]
    verdicts: list[Verdict]
    facts: dict[int, dict[str, Facts]]
    seconds: float

    @property
    def status(self) -> str:
        return worst(self.verdicts)

    def tree(self) -> dict[str, Any]:
        """JSON-able."""
        return {"status": self.status, **asdict(self)}


def preflight(options: Options, meeting: Meeting) -> Report | None:
    """Runs all checks with the other ranks. The report on rank 0, None on the others.

    A rank that does not come within `options.patience_s` is a fault of the check `ranks`; the others go on
    without it.

    Raises:
        RuntimeError: rank 0 is not heard of; or this rank came too late, and the others went on.
    """
    begin_s = time.monotonic()
    facts = _local_facts(options, meeting)
    left = gathered({"token": functools.partial(disk.leave_token, options)}, options.gather_s)["token"]
    token = left.get("token")
    try:
        came = _roll_call(options, meeting, facts, token, begin_s + options.patience_s)
        facts |= _shared_facts(options, meeting, came)
        meeting.tell("facts", facts)
        told = _end(options, meeting, came)
    finally:
        if token is not None:
            Path(token).unlink(missing_ok=True)
    if told is None:
        return None
    hosts = {rank: place["host"] for rank, place in came.items()}
    verdicts = _of_missing(meeting.world_size, hosts, told) + judged(told, hosts)
    return Report(meeting.world_size, hosts, verdicts, told, time.monotonic() - begin_s)


def host_name() -> str:
    """What the table calls this host."""
    return socket.gethostname()


def _local_facts(options: Options, meeting: Meeting) -> dict[str, Facts]:
    found = gathered(local_tasks(options), options.gather_s)
    if "error" in found.get(dataset.NAME, {}):
        return found  # there is nothing to read
    return found | gathered(reading_task(options, meeting), options.gather_s)


def _roll_call(
    options: Options, meeting: Meeting, facts: dict[str, Facts], token: str | None, until_s: float
) -> dict[int, dict[str, Any]]:
    """The ranks that came in time, with their host, token and device; the same on all of them.

    Raises:
        RuntimeError: this one came too late, or rank 0 is not heard of.
    """
    # A rank beyond the GPUs of its host is told by the check `gpus`; then all measure on the CPU, as they do
    # where the recipe computes there.
    has_gpu = meeting.local_rank < len(facts.get(gpus.NAME, {}).get("names", ()))
    meeting.tell("here", {"host": host_name(), "token": token, "device": "cuda" if has_gpu else "cpu"})
    if meeting.rank == 0:
        here = meeting.hear("here", meeting.present, until_s)
        meeting.announce("came", {"ranks": here})
    # Rank 0 may have begun later than this one by what it takes to start on another host, and may have waited
    # for ranks to ask for this start's name.
    came = meeting.listen("came", 3 * options.patience_s)["ranks"]
    if str(meeting.rank) not in came:
        raise RuntimeError(
            f"rank {meeting.rank} on {host_name()} came after rank 0 had stopped waiting; run it again, with "
            "a longer --patience if starting takes so long"
        )
    return {int(rank): place for rank, place in came.items()}


def _end(options: Options, meeting: Meeting, came: Collection[int]) -> dict[int, dict[str, Facts]] | None:
    """The facts of all ranks that told them in time, on rank 0; None on the others, which it lets go."""
    # Of the network's three parts each may time out; a round of links takes a second or two.
    limit_s = 3 * options.collective_s + 2 * len(came)
    if meeting.rank:
        meeting.listen("over", 2 * options.patience_s + limit_s)
        meeting.tell("left", {})
        return None
    told = meeting.hear("facts", came, time.monotonic() + limit_s)
    meeting.announce("over", {})
    # The store ends with this process: the others must have heard.
    meeting.hear("left", [rank for rank in told if rank], time.monotonic() + LEAVING_S)
    return told


def _shared_facts(options: Options, meeting: Meeting, came: Mapping[int, dict[str, Any]]) -> dict[str, Facts]:
    """What needs the others: tokens in RUN, and the network."""
    hosts = {rank: place["host"] for rank, place in came.items()}
    tokens = {place["host"]: place["token"] for place in came.values() if place["token"] is not None}
    found = gathered({disk.ONE_RUN: lambda: disk.look_for(tokens)}, options.gather_s) if tokens else {}
    if options.network and len(came) > 1:
        on_gpus = all(place["device"] == "cuda" for place in came.values())
        found |= network.measured(meeting, hosts, "nccl" if on_gpus else "gloo", options)
    return found


def _of_missing(world_size: int, hosts: Mapping[int, str], told: Mapping[int, Any]) -> list[Verdict]:
    """Ranks that never came, and those that went silent while the network was measured."""
    absent = [rank for rank in range(world_size) if rank not in hosts]
    silent = [rank for rank in hosts if rank not in told]
    verdicts = [
        Verdict(RANKS, FAIL, hosts[rank], f"rank {rank} came and went silent", "see what it printed there")
        for rank in silent
    ]
    if absent:
        found = f"rank {', '.join(map(str, absent))} of {world_size} did not come"
        remedy = "see what the launcher printed; look at the host that its last ranks are on"
        verdicts.append(Verdict(RANKS, FAIL, "?", found, remedy))
    return verdicts
