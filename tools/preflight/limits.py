"""Checks `shared memory` and `limits`: /dev/shm, open files, locked memory and threads of a rank."""

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import (
    FAIL,
    PASS,
    Seen,
    Verdict,
    bytes_text,
    graded,
    of_hosts,
    passed,
    ranks_of,
)

SHARED, LIMITS = "shared memory", "limits"
# NCCL between the GPUs of a host takes some 10 MB a pair of ranks, worker processes hand batches over there;
# 64 MB in all is what a container has unless it is told otherwise.
WARN_SHM_BYTES, FAIL_SHM_BYTES = 512 << 20, 64 << 20  # for each rank of the host
# What a rank opens beside the shards: libraries, sockets to the other ranks, pipes.
FILES_OF_A_RANK = 512
WARN_FILES = 4096
# torch, gloo and NCCL start about so many threads of their own beside those that are asked for.
THREADS_OF_A_RANK = 64
# InfiniBand registers its buffers as locked memory, and fails late and oddly where it may not.
FAIL_LOCKED_BYTES = 1 << 30


def gather_shared(folder: Path = Path("/dev/shm")) -> dict[str, Any]:
    """Bytes of /dev/shm, and those that are free."""
    found = os.statvfs(folder)
    return {"total": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}


def judge_shared(seen: Sequence[Seen]) -> list[Verdict]:
    """Whether the ranks of a host have room."""
    verdicts = []
    for one in of_hosts(seen):
        ranks = len(ranks_of(seen, one.host))
        status = graded(one.facts["free"] / ranks, warn=WARN_SHM_BYTES, fail=FAIL_SHM_BYTES + 1)
        found = f"{bytes_text(one.facts['free'])} free for {ranks} ranks"
        remedy = "mount -o remount,size=16G /dev/shm; of a container: --shm-size=16g or --ipc=host"
        verdicts.append(Verdict(SHARED, status, one.host, found, remedy))
    least = min(one.facts["free"] for one in seen)
    bad = [verdict for verdict in verdicts if verdict.status != PASS]
    return bad or [passed(SHARED, f"{bytes_text(least)} and more free")]


def gather_limits(options: Options) -> dict[str, Any]:
    """Soft limits (None: unlimited), what counts against them, and whether NCCL uses InfiniBand."""
    return {
        "nofile": _soft(resource.RLIMIT_NOFILE),
        "memlock": _soft(resource.RLIMIT_MEMLOCK),
        # Root may start threads beyond the limit.
        "nproc": None if os.geteuid() == 0 else _soft(resource.RLIMIT_NPROC),
        "threads_now": 0 if os.geteuid() == 0 else threads_of_user(),
        "shards": _shards(options),
        "threads": options.threads,
        "infiniband": uses_infiniband(options.device, os.environ),
    }


def uses_infiniband(device: str, variables: Mapping[str, str], root: Path = Path("/sys")) -> bool:
    """Whether NCCL registers memory for cards of this host. gloo, which ranks on the CPU use, never does.

    Args:
        device: of the recipe.
        variables: of the rank; NCCL_IB_DISABLE=1 or NCCL_NET=Socket leave the cards alone.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return False
    is_off = variables.get("NCCL_IB_DISABLE", "0").strip() not in ("", "0")
    is_off = is_off or variables.get("NCCL_NET", "").strip().lower() == "socket"
    return not is_off and any((root / "class/infiniband").glob("*"))


def judge_limits(seen: Sequence[Seen]) -> list[Verdict]:
    """Files for all shards, threads for all ranks, and locked memory where NCCL uses InfiniBand."""
    verdicts = [
        verdict
        for one in of_hosts(seen)
        for verdict in (_files(one), _threads(one, len(ranks_of(seen, one.host))), _locked(one))
        if verdict.status != PASS
    ]
    facts = seen[0].facts
    names = ("nofile", "memlock", "nproc")
    told = ", ".join(f"{name} {'unlimited' if facts[name] is None else facts[name]}" for name in names)
    return verdicts or [passed(LIMITS, told)]


def _files(one: Seen) -> Verdict:
    limit, needed = one.facts["nofile"], one.facts["shards"] + FILES_OF_A_RANK
    status = PASS if limit is None else graded(limit, warn=max(WARN_FILES, needed), fail=needed)
    found = f"{limit} open files; {one.facts['shards']} shards and {FILES_OF_A_RANK} others may be open"
    return Verdict(LIMITS, status, one.host, found, "ulimit -n 65536 (limits.conf, LimitNOFILE or --ulimit)")


def _threads(one: Seen, ranks: int) -> Verdict:
    limit, needed = one.facts["nproc"], ranks * (one.facts["threads"] + THREADS_OF_A_RANK)
    left = None if limit is None else limit - one.facts["threads_now"]
    status = PASS if left is None else graded(left, warn=2 * needed, fail=needed)
    found = f"{left} more threads are allowed; {ranks} ranks take about {needed}"
    return Verdict(LIMITS, status, one.host, found, "ulimit -u 65536 (limits.conf, TasksMax or --pids-limit)")


def _locked(one: Seen) -> Verdict:
    limit = one.facts["memlock"]
    short = one.facts["infiniband"] and limit is not None and limit < FAIL_LOCKED_BYTES
    found = f"{bytes_text(limit or 0)} of locked memory, and NCCL uses InfiniBand"
    remedy = "ulimit -l unlimited (limits.conf, LimitMEMLOCK or --ulimit memlock=-1), or NCCL_IB_DISABLE=1"
    return Verdict(LIMITS, FAIL if short else PASS, one.host, found, remedy)


def _shards(options: Options) -> int:
    """Of the data set; none where it cannot be read, which its own check tells."""
    from viewmill.shards.storage.mirror import read_info_at

    try:
        return len(read_info_at(options.data).shards) if options.data is not None else 0
    except (ValueError, RuntimeError, OSError):
        return 0


def threads_of_user() -> int:
    """Threads of this user on this host."""
    import psutil

    own, count = os.getuid(), 0
    for process in psutil.process_iter(["uids", "num_threads"]):
        uids = process.info["uids"]
        if uids is not None and uids.real == own:
            count += process.info["num_threads"] or 0
    return count


def _soft(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
