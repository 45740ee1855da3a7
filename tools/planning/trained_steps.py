"""Steps of real trainings on this machine, a process a rank, on a core of its own where there are enough."""

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from viewmill.engine.config import ConfigError, RunConfig, config_from
from viewmill.engine.heap import keep_freed_memory
from viewmill.engine.recipe_file import apply_override
from viewmill.engine.train import train
from viewmill.engine.world import World

WARM_UP = 2  # steps that do not count: they allocate and load


class StepTimes(NamedTuple):
    """Of the slowest rank: medians over steps, seconds."""

    wall_s: float
    cpu_s: float  # processor time of all threads of a rank; others on the core do not count


def as_measured(config: RunConfig, steps: int) -> RunConfig:
    """The training as it will be measured: on the CPU, one thread a rank, no checkpoint or log on its way.

    Raises:
        ConfigError: settings that need a GPU.
    """
    if config.device == "cuda" or config.precision == "fp16":
        raise ConfigError("steps are measured on the CPU: leave device and precision=fp16 out")
    total = WARM_UP + steps
    tree = config.model_dump(mode="json")
    changes = [
        "device=cpu", "torch_threads=1", "views.num_threads=1", f"epochs={total}", f"max_steps={total}",
        "log.tensorboard=false", f"log.every_steps={10 * total}", "checkpoint.every_epochs=null",
        "checkpoint.every_steps=null", "log.wandb=null", "log.mlflow=null",
    ]  # fmt: skip
    for change in changes:
        apply_override(tree, change)
    return config_from(tree, where="steps to be measured")


def measure_steps(configs: Sequence[RunConfig], data: str, *, world_size: int, steps: int) -> list[StepTimes]:
    """Trains each for WARM_UP + `steps` steps by `train` itself, one after the other in the same processes.

    A step has all that it has in a run: reading, views, teacher, DeepSpeed, the update, the ranks' meeting.
    """
    trees = [as_measured(config, steps).model_dump(mode="json") for config in configs]
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_train_all, (trees, data, world_size, folder), world_size, start_method="spawn")
        ranks = [torch.load(f"{folder}/{rank}.pt", weights_only=True) for rank in range(world_size)]
    return [
        StepTimes(*(max(times) for times in zip(*found, strict=True))) for found in zip(*ranks, strict=True)
    ]


def pin(rank: int) -> None:
    """This process, and all its threads, to one of the cores that it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})


def _train_all(rank: int, trees: list[dict[str, Any]], data: str, world_size: int, folder: str) -> None:
    pin(rank)
    keep_freed_memory()  # as viewmill train does
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank))
    os.environ.update(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    try:
        world = World(rank, world_size, rank, torch.device("cpu"))
        found = [
            _train(tree, data, Path(folder) / f"run{number}", world) for number, tree in enumerate(trees)
        ]
    finally:
        dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


def _train(tree: dict[str, Any], data: str, run: Path, world: World) -> tuple[float, float]:
    """(wall, processor) seconds of a step, medians."""
    moments: list[tuple[float, float]] = []

    def look(*_: Any) -> None:
        moments.append((time.perf_counter(), time.process_time()))

    train(RunConfig.model_validate(tree), data, run, world=world, watch=look)
    counted = list(zip(moments[WARM_UP - 1 : -1], moments[WARM_UP:], strict=True))
    wall = statistics.median(after[0] - before[0] for before, after in counted)
    cpu = statistics.median(after[1] - before[1] for before, after in counted)
    return wall, cpu
