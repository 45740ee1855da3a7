"""Check `processors`: cores that the ranks of a host may use, beside the threads that they will start."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL, PASS, WARN, Seen, Verdict, of_hosts, passed, ranks_of

NAME = "processors"
# Threads for each core from which on they cost more in waiting for each other than they bring.
WARN_THREADS_PER_CORE, FAIL_THREADS_PER_CORE = 1.0, 4.0


def gather(options: Options, root: Path = Path("/")) -> dict[str, Any]:
    """Cores that this rank may run on, those that its control group pays for (None: all), threads wanted."""
    return {
        "cores": sorted(os.sched_getaffinity(0)),
        "quota": own_quota(root),
        "threads": options.threads,
    }


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """Whether the threads of a host's ranks exceed the cores that these ranks have between them."""
    verdicts, least = [], math.inf
    for one in of_hosts(seen):
        ranks = ranks_of(seen, one.host)
        cores: float = len({core for rank in ranks for core in rank.facts["cores"]})
        limited = one.facts["quota"] is not None and one.facts["quota"] < cores
        cores = one.facts["quota"] if limited else cores
        threads = sum(rank.facts["threads"] for rank in ranks)
        least = min(least, cores / threads)
        found = f"threads wanted: {threads}, ranks: {len(ranks)}, cores: {cores:g}" + (
            " (cgroup quota)" if limited else ""
        )
        remedy = "lower views.num_threads and torch_threads, or ask for more cores"
        if limited:
            remedy += " (--cpus, resources.limits.cpu)"
        verdicts.append(Verdict(NAME, status_of(threads / cores), one.host, found, remedy))
    bad = [verdict for verdict in verdicts if verdict.status != PASS]
    return bad or [passed(NAME, f"at least {least:.3g} cores for each thread that is wanted")]


def status_of(threads_per_core: float) -> str:
    """By the two limits; as many threads as cores pass."""
    if threads_per_core > FAIL_THREADS_PER_CORE:
        return FAIL
    return WARN if threads_per_core > WARN_THREADS_PER_CORE else PASS


def own_quota(root: Path = Path("/")) -> float | None:
    """Cores that this process's control groups grant it; None: as many as there are, or no such groups."""
    try:
        text = (root / "proc/self/cgroup").read_text(encoding="utf-8")
    except OSError:
        return None
    return quota(text, root / "sys/fs/cgroup")


def quota(groups: str, mount: Path) -> float | None:
    """Cores that the control groups of a process grant it, the least of each and those above; None: no limit.

    Args:
        groups: /proc/PID/cgroup, lines of `number:controllers:path`; no controllers: version 2.
        mount: where the control groups are mounted. Inside a container the own group is the mount itself.
    """
    found = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [_second(folder) for folder in _upwards(mount, path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                found += [_first(folder) for folder in _upwards(mount / name, path)]
    limits = [cores for cores in found if cores is not None]
    return min(limits, default=None)


def _upwards(mount: Path, path: str) -> list[Path]:
    parts = [part for part in path.split("/") if part and part != ".."]
    return [mount.joinpath(*parts[:number]) for number in range(len(parts), -1, -1)]


def _second(folder: Path) -> float | None:
    """cpu.max of version 2: 'max 100000' or '150000 100000', microseconds."""
    words = _words(folder / "cpu.max")
    return float(words[0]) / float(words[1]) if len(words) == 2 and words[0] != "max" else None


def _first(folder: Path) -> float | None:
    """cpu.cfs_quota_us of version 1, -1 without a limit, over cpu.cfs_period_us."""
    granted, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return float(granted[0]) / float(period[0]) if granted and period and float(granted[0]) > 0 else None


def _words(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError:  # no such group here, or no such controller
        return []
