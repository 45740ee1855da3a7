"""Stages of a small training that are made slow by sleeping, one at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine import run_checkpoints
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import start_world, stop_world
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.families.hydes import HyDeS
from viewmill.pipelines.executors.host import executor as host
from viewmill.pipelines.executors.host.decoding import Decoder
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor import loader_alone, training_alone
from viewmill.tools.doctor.examination import examine

from tests.engine.tiny import tiny_config

BATCH = 4
JOB = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
# What is slowed, by which function, and how many times in a step's time it is called.
SLOWED: dict[str, tuple[Any, str, float]] = {
    "storage read": (Dataset, "read", 0.25),  # four threads read
    "decode": (Decoder, "decode", BATCH),
    "augment": (host, "render_image", BATCH),
    "forward": (Student, "forward", 1),
    "loss": (HyDeS, "loss", 1),
    "backward": (ZeroEngine, "backward", 1),
    "optimiser": (ZeroEngine, "step", 1),
    "logging": (RunLog, "metrics", 1),
    "checkpoint": (run_checkpoints.checkpoint, "begin", 1),
}


def slowed(original: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def slow(*args: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return original(*args, **named)

    return slow


@contextmanager
def slow_stage(stage: str, seconds: float) -> Iterator[None]:
    """While inside, a step of one rank takes so much longer at this stage."""
    where, name, calls = SLOWED[stage]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, name, slowed(getattr(where, name), seconds / calls))
        yield


@contextmanager
def undone() -> Iterator[None]:
    """Undoes what a training in this process sets: variables of a job, and the number of torch's threads."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in JOB.items():
            patch.setenv(name, value)
        patch.setattr(loader_alone, "LEAST_IMAGES", BATCH)
        patch.setattr(loader_alone, "LEAST_S", 0.0)
        patch.setattr(training_alone, "LEAST_S", 0.0)
        yield
    torch.set_num_threads(threads)


def settings(stage: str = "") -> RunConfig:
    """A line of the log each step; checkpoints only where they are slowed, for a disk may be slow too."""
    every = 1 if stage == "checkpoint" else None
    views = {"preset": "hydes@32", "executor": "host", "num_threads": 1, "prefetch": 1}
    return tiny_config(batch_size=BATCH, views=views, checkpoint={"every_epochs": None, "every_steps": every})


def examined(data: Path, stage: str, rounds: int = 1, steps: int = 2, **options: Any) -> dict[str, Any]:
    """What the doctor finds; all ranks of the job call it, if there is one."""
    world = start_world("cpu")
    try:
        return examine(
            settings(stage), data, world=world, rounds=rounds, steps=steps, trials=False, **options
        )
    finally:
        stop_world(world)
