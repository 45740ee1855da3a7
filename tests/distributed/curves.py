"""One training in many places: other ZeRO stages, numbers of ranks and micro-batches, and its loss curves."""

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from viewmill.engine import train as train_module
from viewmill.engine.config import RunConfig
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import start_world
from viewmill.pipelines.loader import Batch, Loader

from tests.engine.tiny import tiny_config
from tests.support import run_ranks

TOLERANCE = 1e-4  # relative, DESIGN.md's
STAGES, WORLD_SIZES, STEPS = (0, 1, 2, 3), (1, 2, 4), 10
SAVED_AT = 35  # where a run of more steps may be taken over elsewhere
RESNET, VIT = "resnet18", "vit_tiny_patch16_224"
METHODS: dict[str, dict[str, Any]] = {
    "hydes": {"beta": 0.5, "projector": {"hidden": 64, "dim": 16}},  # 0.5: a loss far from zero
    "imsvd": {"name": "imsvd", "variables": 8, "units": 8, "projector": {"hidden": 64}},
    "distill": {
        "name": "distill",
        "num_clusters": 16,
        "projector": {"hidden": 64, "dim": 16},
        "teacher": {"kind": "ema", "momentum": 0.9},
        # Milder than by default: sharp targets turn the last bit of a logit into a part of the loss.
        "teacher_temperature": 0.2,
        "student_temperature": 0.2,
    },
}


class Run(NamedTuple):
    """One training: what is trained, which makes its curve, and where, which must not."""

    method: str
    backbone: str
    world_size: int = 1
    stage: int = 0
    accumulation: int = 1
    layers: int = 2  # of the projector; one layer has no BatchNorm
    is_permuted: bool = False  # the samples of each batch in reverse order: the noise floor
    seed: int = 0
    steps: int = STEPS
    batch_size: int = 16
    preset: str = "imsvd@32"
    executor: str = "reference"

    @property
    def reference(self) -> "Run":
        """The same training on one rank at stage 0, at once."""
        return self._replace(world_size=1, stage=0, accumulation=1, is_permuted=False, seed=0)

    @property
    def folder(self) -> str:
        return " ".join(str(value) for value in self)

    @property
    def place(self) -> str:
        """Where it runs, or what it is for."""
        if self.is_permuted or self.seed:
            return "noise floor" if self.is_permuted else "another seed"
        return f"W={self.world_size} ZeRO {self.stage} A={self.accumulation}"


class PermutedLoader(Loader):
    """The same batches with their samples in reverse order: only the order of float32 sums differs."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            yield replace(batch, views=[view.flip(0) for view in batch.views])


def config(run: Run) -> RunConfig:
    """AdamW at a constant rate of 1e-4 in float32; a run that gets there has a checkpoint at `SAVED_AT`."""
    method = METHODS[run.method]
    return tiny_config(
        seed=run.seed,
        epochs=30,
        max_steps=run.steps,
        batch_size=run.batch_size,
        accumulation=run.accumulation,
        model={"backbone": run.backbone},
        method={**method, "projector": {**method["projector"], "layers": run.layers}},
        views={"preset": run.preset, "executor": run.executor, "num_threads": 1},
        optimizer={"lr": 1e-4},
        schedule={"constant": True},
        zero={"stage": run.stage},
        checkpoint={"every_epochs": None, "every_steps": SAVED_AT},
    )


def on_ranks(rank: int, runs: list[tuple[Any, ...]], data: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = start_world("cpu")
    for run in (Run(*values) for values in runs):
        with pytest.MonkeyPatch.context() as patch:
            if run.is_permuted:
                patch.setattr(train_module, "Loader", PermutedLoader)
            train(config(run), data, f"{folder}/{run.folder}", world=world)
        if rank == 0 and run.steps < SAVED_AT:
            shutil.rmtree(f"{folder}/{run.folder}/checkpoints")  # of a ResNet-18 they take 180 MB
            shutil.rmtree(f"{folder}/{run.folder}/export")


def train_everywhere(runs: Iterable[Run], data: Path, folder: Path) -> None:
    """Each of these runs, those of one world size by the same ranks."""
    runs = list(runs)
    for world_size in sorted({run.world_size for run in runs}):
        mine = [tuple(run) for run in runs if run.world_size == world_size]
        run_ranks(world_size, on_ranks, mine, str(data), str(folder))


def curve(folder: Path, run: Run) -> list[float]:
    """The loss of each step.

    Raises:
        AssertionError: it is not the curve of this many steps.
    """
    losses = [line["loss"] for line in read_lines(folder / run.folder / "metrics.jsonl")]
    assert len(losses) == run.steps, run
    return losses


def differences(folder: Path, runs: Iterable[Run]) -> dict[Run, float]:
    """Largest relative difference of each loss curve from that of the run's reference; printed too."""
    rows = {}
    for run in runs:
        pairs = zip(curve(folder, run), curve(folder, run.reference), strict=True)
        rows[run] = max(abs(loss - expected) / abs(expected) for loss, expected in pairs)
        what = f"{run.method:8s} {run.backbone:22s} {run.layers} layers, {run.steps} steps"
        print(f"  {what:48s} {run.place:18s} {rows[run]:.1e}")
    return rows
