"""The smallest things to train on and with: a data set made by code, and a run of seconds."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.telemetry import read_lines
from viewmill.shards.convert import convert

# What a clock measured, or the system: no two runs have the same.
CLOCKED = {"time_s", "images_per_s", "data_wait_fraction", "rank_wait_fraction", "step_s"}
CLOCKED |= {"step_p50_s", "step_p95_s", "memory_peak_mib"}


def tiny_data_set(folder: Path, count: int, first: int = 0) -> Path:
    """A data set of `count` pictures in four classes: coloured waves, all different, 48 to 72 pixels wide."""
    source = folder / "pictures"
    for index in range(first, first + count):
        path = source / f"class{index % 4}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(wave(index)).save(path)
    convert(source, folder / "data", workers=1)
    return folder / "data"


def wave(index: int) -> np.ndarray:
    """One upright picture, uint8 (height, width, 3)."""
    draws = np.random.default_rng(index)
    height, width = draws.integers(48, 72, size=2)
    y, x = np.mgrid[0:height, 0:width] / 48
    phases, turns = draws.uniform(0, 6, size=3), draws.uniform(1, 9, size=(2, 3))
    waves = np.sin(x[..., None] * turns[0] * (1 + index % 4) + y[..., None] * turns[1] + phases)
    return np.round(127.5 + 127.5 * waves).astype(np.uint8)


def tiny_config(**changes: Any) -> RunConfig:
    """A 0.4 M parameter ResNet on views of 32 and 16 pixels; `changes` are top-level settings."""
    settings: dict[str, Any] = {
        "epochs": 4,
        "batch_size": 8,
        "device": "cpu",
        "torch_threads": 1,
        "model": {"backbone": "test_resnet"},
        "method": {"projector": {"layers": 2, "hidden": 64, "dim": 16}},
        # The executor that takes the least time; what it makes is compared with the reference elsewhere.
        "views": {"preset": "hydes@32", "executor": "host", "num_threads": 1},
        "optimizer": {"lr": 1e-3},
        "log": {"every_steps": 1, "tensorboard": False},
    }
    return config_from(settings | changes, where="tiny_config")


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what a clock measured."""
    lines = read_lines(run_dir / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in CLOCKED} for line in lines]
