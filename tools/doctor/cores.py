"""How many processors a rank has for itself."""

import os
import socket
from pathlib import Path

from viewmill.engine.agreement import gather_json
from viewmill.engine.world import World

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: "200000 100000" is two processors, "max 100000" all


def cores_of_rank(world: World) -> float:
    """Processors that this process may use, shared with the ranks that may use the same ones; all call it.

    The system's choice of processors and a container's quota both count.
    """
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [os.cpu_count()]
    place = [socket.gethostname(), mine]
    sharing = gather_json(world, place).count(place)
    count = len(mine) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = quota_of(_QUOTA.read_text(encoding="utf-8")) if _QUOTA.is_file() else None
    return min(float(count), quota or float(count)) / sharing


def quota_of(text: str) -> float | None:
    """Processors by the text of cpu.max; None: as many as there are."""
    allowed, _, period = text.strip().partition(" ")
    return None if allowed == "max" else int(allowed) / int(period or 100_000)
