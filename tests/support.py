"""Runs a function on several gloo ranks of this machine."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# A rank that waits longer than this waits for one that failed: no honest test step takes so long.
RANK_TIMEOUT = timedelta(seconds=90)
# Imported once for all ranks, where the tests have imported the first of a line: it takes seconds. The rest
# of a line is what a training imports when it begins. They start one thread, jemalloc's, which minds forks.
HEAVY = (
    ("torch",),
    ("timm",),
    ("sklearn.linear_model",),
    # The last is what takes longest of all that DeepSpeed imports when an engine is made: torch's compiler.
    ("viewmill.engine.zero", "deepspeed", "deepspeed.runtime.zero.muon.muon_optimizer"),
    ("viewmill.engine.train",),
    ("nvidia.dali", "viewmill.pipelines.executors.dali.operator_graph"),
    ("numba", "viewmill.pipelines.executors.host.executor"),
)
# The process that ranks of this session are forks of, and what it has imported.
_ours: dict[str, Any] = {"server": None, "modules": ()}


def join(rank: int, world_size: int, folder: str) -> None:
    """Makes this process a rank, of one thread, of the job whose ranks meet in `folder`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=RANK_TIMEOUT,
    )


def _enter(
    rank: int,
    world_size: int,
    folder: str,
    variables: dict[str, str],
    body: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.clear()
    os.environ.update(variables)  # not those of the moment when the first ranks were started
    join(rank, world_size, folder)
    try:
        torch.save(body(rank, *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def heavy_modules() -> list[str]:
    """What ranks of these tests will import, and no more: tests of a loss alone need no DeepSpeed."""
    return [name for line in HEAVY if line[0] in sys.modules for name in line]


def start_method() -> str:
    """How ranks begin: as forks of a server that has imported what is heavy, and has done nothing else.

    A fork cannot use CUDA once its parent has looked at a GPU, as importing DeepSpeed does.
    """
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    modules = heavy_modules()
    # Another one may run: that of a conversion's workers, or of earlier ranks, which has imported less.
    if server._forkserver_pid not in (None, _ours["server"]) or not set(modules) <= set(_ours["modules"]):
        server._stop()
    multiprocessing.set_forkserver_preload(modules)
    forkserver.ensure_running()
    if server._forkserver_pid != _ours["server"]:
        _ours.update(server=server._forkserver_pid, modules=modules)
    return "forkserver"


def run_ranks(world_size: int, body: Callable[..., Any], *args: Any) -> list[Any]:
    """body(rank, *args) on every rank; returns the results (tensors, numbers, containers) in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        given = (world_size, folder, dict(os.environ), body, args)
        mp.start_processes(_enter, args=given, nprocs=world_size, start_method=start_method())
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
