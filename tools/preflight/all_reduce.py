"""Check `all-reduce`: what all ranks together reach, with the backend that training uses."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from viewmill.tools.preflight.pace import settle, sized
from viewmill.tools.preflight.verdict import PASS, WARN, Seen, Verdict, bytes_text, graded, passed

NAME = "all-reduce"
REPEATS, SMALL_REPEATS = 3, 20
SECONDS = 0.5
MOST_BYTES = {"gloo": 64 << 20, "nccl": 1 << 30}
# bytes/s by the bus: a step of a ResNet-50 moves 51 MB of gradients in bf16, one of a ViT-L 600 MB.
WARN_RATE = {"gloo": 50e6, "nccl": 2e9}
FAIL_RATE = {"gloo": 5e6, "nccl": 200e6}
WARN_LATENCY_S = {"gloo": 0.02, "nccl": 0.005}


def measure(device: torch.device, backend: str) -> dict[str, Any]:
    """Seconds of a small all-reduce, and bytes/s of a large one: {latency_s, bytes, seconds, bus_rate}.

    The bus rate is 2 (W - 1) / W times the bytes of a rank over the seconds, which does not depend on the
    number of ranks W for a ring (as nccl-tests define it, doc/PERFORMANCE.md there). The slowest rank counts.

    Raises:
        RuntimeError: a rank does not take part in time.
    """
    world_size = dist.get_world_size()
    word = torch.zeros(1, device=device)
    # The first makes the connections, which may take seconds.
    small = [_seconds(word, device) for _ in range(SMALL_REPEATS + 1)][1:]

    def seconds(count: int) -> float:
        took = _seconds(torch.zeros(max(1, count // 4), device=device), device)
        return _slowest(took)

    count = sized(seconds, SECONDS, MOST_BYTES[backend])
    took = statistics.median(seconds(count) for _ in range(REPEATS))
    return {
        "backend": backend,
        "ranks": world_size,
        "latency_s": _slowest(statistics.median(small)),
        "bytes": count,
        "seconds": took,
        "bus_rate": 2 * (world_size - 1) / world_size * count / took,
    }


def _seconds(tensor: torch.Tensor, device: torch.device) -> float:
    settle(device)
    begin = time.perf_counter()
    dist.all_reduce(tensor)
    settle(device)
    return time.perf_counter() - begin


def _slowest(took: float) -> float:
    """The largest of all ranks, the same on all of them: the sizes that follow from it must agree."""
    value = torch.tensor([took], dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return float(value)


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """All ranks have the same figures: those of rank 0 are judged."""
    facts = seen[0].facts
    if facts["ranks"] == 1:
        return [passed(NAME, "one rank")]
    backend, rate, latency = facts["backend"], facts["bus_rate"], facts["latency_s"]
    status = graded(rate, warn=WARN_RATE[backend], fail=FAIL_RATE[backend])
    if status == PASS and latency > WARN_LATENCY_S[backend]:
        status = WARN
    found = f"{backend}, {facts['ranks']} ranks: {bytes_text(rate)}/s, {1000 * latency:.3g} ms for a word"
    remedy = "see `links` for the slow one; NCCL_DEBUG=INFO tells the transport, NCCL_SOCKET_IFNAME sets it"
    return [Verdict(NAME, status, "all", found, "" if status == PASS else remedy)]
