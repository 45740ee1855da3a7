"""The group of the ranks that came, and what is measured between them: clock, all-reduce, links, one RUN."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from viewmill.engine.world import pick_device
from viewmill.tools.preflight import all_reduce, clock, links
from viewmill.tools.preflight.gathering import Facts, attempted
from viewmill.tools.preflight.meeting import Meeting
from viewmill.tools.preflight.options import Options

CHECKS = (clock.NAME, all_reduce.NAME, links.NAME)


def measured(meeting: Meeting, hosts: Mapping[int, str], backend: str, options: Options) -> dict[str, Facts]:
    """The facts of each check of the network; after one that fails the others are not tried.

    Args:
        hosts: of the ranks that came, this one among them. backend: nccl or gloo, as rank 0 decided.
    """
    ranks = sorted(hosts)
    me, found = ranks.index(meeting.rank), dict[str, Facts]()
    device = pick_device("auto", meeting.local_rank) if backend == "nccl" else torch.device("cpu")
    first = {hosts[rank]: number for number, rank in reversed(list(enumerate(ranks)))}
    leaders = sorted(first.values())
    try:
        with group(meeting, me, len(ranks), backend, options.collective_s):
            for name, task in (
                (clock.NAME, lambda: clock.measure(me, leaders)),
                (all_reduce.NAME, lambda: all_reduce.measure(device, backend)),
                (links.NAME, lambda: _links(me, leaders, device, ranks)),
            ):
                found[name] = attempted(task)
                if "error" in found[name]:
                    break  # the group is no longer of use
    except (RuntimeError, dist.DistError, ValueError) as error:
        found.setdefault(clock.NAME, {"error": f"no connection: {' '.join(str(error).split())}"[:500]})
    broken = next((name for name, facts in found.items() if "error" in facts), None)
    return {name: found.get(name, {"error": f"not measured, as {broken} failed"}) for name in CHECKS}


@contextlib.contextmanager
def group(meeting: Meeting, me: int, count: int, backend: str, limit_s: float) -> Iterator[None]:
    """The default process group of the ranks that came, for the time of the block."""
    both = "cpu:gloo,cuda:nccl" if backend == "nccl" else "gloo"
    store = dist.PrefixStore("group", meeting.store)  # type: ignore[attr-defined]
    dist.init_process_group(both, store=store, rank=me, world_size=count, timeout=timedelta(seconds=limit_s))
    try:
        yield
    finally:
        dist.destroy_process_group()


def _links(me: int, leaders: Sequence[int], device: torch.device, ranks: Sequence[int]) -> Facts:
    """The links of this rank; partners by their rank in the job, not in the group."""
    found = links.measure(me, leaders, device)
    return {"links": [{**link, "to": ranks[link["to"]]} for link in found["links"]]}
