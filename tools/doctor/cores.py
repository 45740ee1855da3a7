"""How many processors a rank has for itself."""

import os
import socket
import time

import psutil
from viewmill.engine.agreement import gather_json
from viewmill.engine.world import World
from viewmill.tools.preflight.processors import own_quota


def cores_of_rank(world: World) -> float:
    """Processors that this process may use, shared with the ranks that may use the same ones; all call it.

    The system's choice of processors and a container's quota both count.
    """
    mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [os.cpu_count()]
    place = [socket.gethostname(), mine]
    sharing = gather_json(world, place).count(place)
    count = len(mine) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(float(count), own_quota() or float(count)) / sharing


class Elsewhere:
    """How many processors other processes have used, of those that this one may use, since this was made.

    Ranks of the same job are others too, but for those that were counted out.
    """

    def __init__(self) -> None:
        self._began = _busy_s()
        self._began_s = time.monotonic()

    def processors(self, own_cpu_s: float) -> float:
        """own_cpu_s: processor seconds of the processes that do not count, over the same time."""
        passed = time.monotonic() - self._began_s
        return max(0.0, (_busy_s() - self._began - own_cpu_s) / passed)


def _busy_s() -> float:
    """Seconds that this process's processors have worked since the machine was started, for whomever."""
    mine = set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    times = psutil.cpu_times(percpu=True)
    chosen = [one for number, one in enumerate(times) if mine is None or number in mine]
    return sum(sum(one) - one.idle - getattr(one, "iowait", 0.0) for one in chosen)
