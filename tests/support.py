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
# Imported once for all ranks of the session where the tests have imported them too: they take seconds.
HEAVY = ("torch", "timm", "deepspeed", "sklearn.linear_model", "viewmill.engine.train")
# What DeepSpeed imports when an optimiser is handed to it: torch's compiler, two seconds of each rank.
BEHIND = {"deepspeed": "deepspeed.runtime.zero.muon.original_muon"}
_ours: dict[str, int | None] = {"server": None}  # the process that ranks of this session are forks of


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
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world_size,
        timeout=RANK_TIMEOUT,
    )
    try:
        torch.save(body(rank, *args), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def start_method() -> str:
    """How ranks begin: as forks of a server that has imported what is heavy, and has done nothing else.

    A fork cannot use CUDA once its parent has looked at a GPU, as importing DeepSpeed does.
    """
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid not in (None, _ours["server"]):
        server._stop()  # that of a conversion's workers, which has imported nothing of this
    heavy = [name for name in HEAVY if name in sys.modules]
    multiprocessing.set_forkserver_preload([*heavy, *(BEHIND[name] for name in heavy if name in BEHIND)])
    forkserver.ensure_running()
    _ours["server"] = server._forkserver_pid
    return "forkserver"


def run_ranks(world_size: int, body: Callable[..., Any], *args: Any) -> list[Any]:
    """body(rank, *args) on every rank; returns the results (tensors, numbers, containers) in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        given = (world_size, folder, dict(os.environ), body, args)
        mp.start_processes(_enter, args=given, nprocs=world_size, start_method=start_method())
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
