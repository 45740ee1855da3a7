"""Trainings with prototypes made anew, and diagnoses of them, on any number of ranks."""

from pathlib import Path
from typing import Any

import torch
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.passes.diagnosis import diagnose
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.subject import Subject, subject_of
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import tiny_config

SAMPLES, CLUSTERS = 21, 5
METHODS: dict[str, dict[str, Any]] = {
    "distill": {
        "name": "distill",
        "num_clusters": CLUSTERS,
        "projector": {"layers": 2, "hidden": 32, "dim": 16},
        "teacher": {"kind": "ema", "momentum": 0.9},
        "teacher_temperature": 0.2,
        "student_temperature": 0.2,
        "scope": "streaming",
        "refresh": "em",
    },
    "imsvd": {"name": "imsvd", "variables": 4, "units": 3, "projector": {"hidden": 32}},
}


def newest(run: str) -> checkpoint.Checkpoint:
    path, _ = checkpoint.newest(Path(run) / "checkpoints")
    return checkpoint.Checkpoint.open(path)


def train_one(method: str, data: str, run: str, world: World) -> None:
    """Two epochs of two steps, and one step of a third: prototypes are made anew twice."""
    chosen = tiny_config(
        epochs=3,
        max_steps=5,
        method=METHODS[method],
        model={"backbone": "test_vit"},  # as in test_every_method_trains_the_same
        views={"preset": "imsvd@32", "executor": "host", "num_threads": 1},
        optimizer={"lr": 1e-4},
        schedule={"constant": True},
        zero={"stage": 2 if world.world_size > 1 else 0},
    )
    train(chosen, data, run, world=world)


def subject_in(run: str) -> Subject:
    return subject_of(newest(run), torch.device("cpu"))


def figures_of(run: str, data: str, world: World, **options: Any) -> dict[str, Any]:
    with Dataset.open(data) as dataset:
        reading = Reading(world, "reference", num_threads=1, batch_size=4)
        found, _ = diagnose(subject_in(run), dataset, reading=reading, temperatures=(0.2, 5.0), **options)
    tensors = {name: tensor.tolist() for name, tensor in found.tensors.items()}
    return {"figures": found.figures, "tensors": tensors}


def on_a_rank(rank: int, data: str, folder: str, runs: dict[str, str]) -> dict[str, Any]:
    """A training with refreshes of its own, and diagnoses of the runs of one rank."""
    torch.set_num_threads(1)
    world = start_world("cpu")
    train_one("distill", data, f"{folder}/two", world)
    found = {name: figures_of(run, data, world) for name, run in runs.items()}
    stop_world(world)
    return found
