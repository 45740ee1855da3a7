"""The whole matrix: every method and network has one loss curve on all ZeRO stages, ranks and micro-batches.

`make soak PART=same_curves`. Ten steps at a constant rate of 1e-4 in float32, of HyDeS, IMSVD and
distillation, with ResNet-18 (BatchNorm throughout) and ViT-Tiny, on stages 0 to 3 of 1, 2 and 4 ranks; and
with ViT-Tiny without any BatchNorm in 1, 2 and 4 micro-batches. Printed beside them is the noise floor, the
same run with the samples of each batch in reverse order: see test_training_is_the_same_everywhere.py, which
holds a share of this in every run of the tests.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from viewmill.engine import train as train_module
from viewmill.engine.config import RunConfig
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import start_world, stop_world

from tests.distributed.test_training_is_the_same_everywhere import PermutedLoader
from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
TOLERANCE = 1e-4  # relative, DESIGN.md's
STEPS, WORLD_SIZES, STAGES, MICRO_BATCHES = 10, (1, 2, 4), (0, 1, 2, 3), (2, 4)
RESNET, VIT = "resnet18", "vit_tiny_patch16_224"
METHODS: dict[str, dict[str, Any]] = {
    "hydes": {"beta": 0.5, "projector": {"layers": 2, "hidden": 64, "dim": 16}},  # 0.5: a loss far from zero
    "imsvd": {"name": "imsvd", "variables": 8, "units": 8, "projector": {"layers": 2, "hidden": 64}},
    "distill": {
        "name": "distill",
        "num_clusters": 16,
        "projector": {"layers": 2, "hidden": 64, "dim": 16},
        "teacher": {"kind": "ema", "momentum": 0.9},
        # Milder than by default: sharp targets turn the last bit of a logit into a part of the loss.
        "teacher_temperature": 0.2,
        "student_temperature": 0.2,
    },
}


class Run(NamedTuple):
    method: str
    backbone: str
    world_size: int
    stage: int
    accumulation: int = 1
    layers: int = 2  # of the projector; one layer has no BatchNorm
    is_permuted: bool = False

    @property
    def reference(self) -> "Run":
        """The same training on one rank at stage 0, at once."""
        return self._replace(world_size=1, stage=0, accumulation=1, is_permuted=False)

    @property
    def folder(self) -> str:
        return " ".join(str(value) for value in self)


def runs_of(backbone: str) -> list[Run]:
    found = [
        Run(method, backbone, world_size, stage)
        for method in METHODS
        for world_size in WORLD_SIZES
        for stage in STAGES
    ]
    found += [Run(method, backbone, 1, 0, is_permuted=True) for method in METHODS]
    if backbone == VIT:
        plain = [Run(method, VIT, 1, 0, layers=1) for method in METHODS]
        found += plain
        found += [
            run._replace(world_size=world_size, stage=stage, accumulation=count)
            for run in plain
            for world_size, stage in ((1, 0), (2, 1), (2, 3))
            for count in MICRO_BATCHES
        ]
    return found


def config(run: Run) -> RunConfig:
    method = METHODS[run.method]
    method = {**method, "projector": {**method["projector"], "layers": run.layers}}
    return tiny_config(
        epochs=5,  # of 2 steps
        max_steps=STEPS,
        batch_size=32,
        accumulation=run.accumulation,
        model={"backbone": run.backbone},
        method=method,
        views={"preset": "imsvd@32", "executor": "reference", "num_threads": 1},
        optimizer={"lr": 1e-4},
        schedule={"constant": True},
        zero={"stage": run.stage},
        checkpoint={"every_epochs": None},
    )


def train_all(runs: list[tuple[Any, ...]], data: str, folder: str) -> None:
    torch.set_num_threads(1)
    world = start_world("cpu")
    for run in (Run(*values) for values in runs):
        with pytest.MonkeyPatch.context() as patch:
            if run.is_permuted:
                patch.setattr(train_module, "Loader", PermutedLoader)
            train(config(run), data, f"{folder}/{run.folder}", world=world)
    if world.world_size == 1:
        stop_world(world)


def on_ranks(rank: int, runs: list[tuple[Any, ...]], data: str, folder: str) -> None:
    train_all(runs, data, folder)


def curve(folder: Path, run: Run) -> list[float]:
    losses = [line["loss"] for line in read_lines(folder / run.folder / "metrics.jsonl")]
    assert len(losses) == STEPS, run
    return losses


@pytest.mark.parametrize("backbone", [RESNET, VIT])
def test_every_method_stage_and_world_size_gives_one_loss_curve(backbone: str, tmp_path: Path) -> None:
    data, runs = str(tiny_data_set(tmp_path, count=66)), runs_of(backbone)
    for world_size in WORLD_SIZES:
        mine = [tuple(run) for run in runs if run.world_size == world_size]
        if world_size == 1:
            train_all(mine, data, str(tmp_path))
        else:
            run_ranks(world_size, on_ranks, mine, data, str(tmp_path))
    rows = {}
    for run in runs:
        pairs = zip(curve(tmp_path, run), curve(tmp_path, run.reference), strict=True)
        rows[run] = max(abs(a - b) / abs(b) for a, b in pairs)
        what = (
            "noise floor" if run.is_permuted else f"W={run.world_size} ZeRO {run.stage} A={run.accumulation}"
        )
        print(f"  {run.method:8s} {run.backbone:22s} {run.layers} layers  {what:18s} {rows[run]:.1e}")
    apart = {run: row for run, row in rows.items() if row > TOLERANCE and not run.is_permuted}
    assert not apart
