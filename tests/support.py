"""Runs a function on several gloo ranks of this machine."""

import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# A rank that waits longer than this waits for one that failed: no honest test step takes so long.
RANK_TIMEOUT = timedelta(seconds=90)


def _enter(rank: int, world_size: int, folder: str, body: Callable[..., Any], args: tuple[Any, ...]) -> None:
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


def run_ranks(world_size: int, body: Callable[..., Any], *args: Any) -> list[Any]:
    """body(rank, *args) on every rank; returns the results (tensors, numbers, containers) in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, args=(world_size, folder, body, args), nprocs=world_size)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world_size)]
