"""The checks in the order of the table: which facts a rank gathers for them, and who judges these."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from viewmill.tools.preflight import (
    all_reduce,
    clock,
    dataset,
    disk,
    gpus,
    limits,
    links,
    names,
    processors,
    reading,
    throttling,
    versions,
)
from viewmill.tools.preflight.gathering import Facts
from viewmill.tools.preflight.meeting import Meeting
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL, Seen, Verdict


class Check(NamedTuple):
    """A part of the table."""

    name: str
    judge: Callable[[Sequence[Seen]], list[Verdict]]
    remedy: str  # where a rank could not find the facts out


def local_tasks(options: Options) -> dict[str, Callable[[], Facts]]:
    """What a rank finds out by itself, at once with the other ranks."""
    tasks: dict[str, Callable[[], Facts]] = {
        versions.NAME: versions.gather,
        names.NAME: names.gather,
        throttling.NAME: functools.partial(throttling.gather, options),
        processors.NAME: functools.partial(processors.gather, options),
        limits.SHARED: limits.gather_shared,
        limits.LIMITS: functools.partial(limits.gather_limits, options),
        disk.NAME: functools.partial(disk.gather, options),
    }
    if options.device != "cpu":
        tasks[gpus.NAME] = functools.partial(gpus.gather, options)
    if options.data is not None:
        tasks[dataset.NAME] = functools.partial(dataset.gather, options)
    return tasks


def reading_task(options: Options, meeting: Meeting) -> dict[str, Callable[[], Facts]]:
    """By itself and after the others, so that nothing else reads."""
    if options.data is None:
        return {}
    return {reading.NAME: functools.partial(reading.gather, options, meeting.rank, meeting.world_size)}


def checks(hosts: Mapping[int, str]) -> tuple[Check, ...]:
    """All that may be judged; hosts: of each rank."""
    look = "look at what it says there"
    return (
        Check(versions.NAME, versions.judge, "install viewmill there as elsewhere"),
        Check(names.NAME, names.judge, look),
        Check(gpus.NAME, gpus.judge, "look at nvidia-smi there"),
        Check(throttling.NAME, throttling.judge, "look at nvidia-smi there"),
        Check(processors.NAME, processors.judge, look),
        Check(limits.SHARED, limits.judge_shared, "mount /dev/shm there"),
        Check(limits.LIMITS, limits.judge_limits, look),
        Check(disk.NAME, disk.judge, "mount RUN and TMPDIR there, for writing"),
        Check(disk.ONE_RUN, disk.judge_shared, "mount RUN there, at the same path"),
        Check(dataset.NAME, dataset.judge, "mount or copy the data set there, at the same path"),
        Check(reading.NAME, reading.judge, "mount or copy the data set there, at the same path"),
        Check(clock.NAME, clock.judge, "let the ranks reach each other: firewall, GLOO_SOCKET_IFNAME"),
        Check(
            all_reduce.NAME, all_reduce.judge, "let the ranks reach each other: firewall, GLOO_SOCKET_IFNAME"
        ),
        Check(
            links.NAME,
            functools.partial(links.judge, hosts=hosts),
            "let the ranks reach each other: firewall, GLOO_SOCKET_IFNAME",
        ),
    )


def judged(facts: Mapping[int, Mapping[str, Any]], hosts: Mapping[int, str]) -> list[Verdict]:
    """All verdicts, from the facts of each rank by check. A fact that is an error fails its rank."""
    verdicts: list[Verdict] = []
    for check in checks(hosts):
        seen = [Seen(rank, hosts[rank], of[check.name]) for rank, of in facts.items() if check.name in of]
        verdicts += unable(check, [one for one in seen if "error" in one.facts])
        able = [one for one in seen if "error" not in one.facts]
        verdicts += check.judge(able) if able else []
    return verdicts


def unable(check: Check, seen: Sequence[Seen]) -> list[Verdict]:
    """A line for each host and error."""
    ranks: dict[tuple[str, str], list[int]] = {}
    for one in seen:
        ranks.setdefault((one.host, str(one.facts["error"])), []).append(one.rank)
    return [
        Verdict(check.name, FAIL, host, f"rank {', '.join(map(str, which[:8]))}: {error}", check.remedy)
        for (host, error), which in ranks.items()
    ]
