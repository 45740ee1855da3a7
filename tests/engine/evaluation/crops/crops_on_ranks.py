"""Classifiers on crops as one of several processes trains them: quick to import, since every rank does."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from viewmill.engine.evaluation.contenders import TRAINED, Contender
from viewmill.engine.evaluation.crops.protocol import CropProtocol
from viewmill.engine.evaluation.crops.training import Crops, trained_heads
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.passes.reading import Reading
from viewmill.engine.world import World
from viewmill.pipelines.plans.spec import IMAGENET_MEAN, IMAGENET_STD
from viewmill.shards.manifest import Dataset

CLASSES = 4
SIZE = 16
PROTOCOL: dict[str, Any] = {
    "name": "small",
    "epochs": 3,
    "batch": 12,
    "rates": (0.05, 0.5),
    "published_rate": 0.05,
    "decay": 1e-3,
    "scale": (0.2, 1.0),
}


class Corners(nn.Module):
    """Twelve features: means of each channel in each quarter of the view, so that crops and flips matter."""

    num_features = 12

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def crops_for(
    dataset: Dataset, folder: Path, world: World, lines: list[str] | None = None, **more: Any
) -> Crops:
    """All images of the data set, in batches of 12; `more` changes the protocol."""
    protocol = CropProtocol(**{**PROTOCOL, **more})
    return Crops(
        dataset,
        range(CLASSES),
        protocol,
        protocol.views(SIZE, IMAGENET_MEAN, IMAGENET_STD),
        Reading(world, "reference", num_threads=1, batch_size=5),
        TensorCache(folder),
        [].append if lines is None else lines.append,
    )


def corners() -> Contender:
    return Contender(TRAINED, Corners(), {"weights": "none"}, seed=None)


def heads_on_a_rank(rank: int, world_size: int, data: str, folder: str) -> Tensor:
    """The packed classifiers, as a rank has them."""
    world = World(rank, world_size, rank, torch.device("cpu"))
    with Dataset.open(data) as dataset:
        return trained_heads(corners(), crops_for(dataset, Path(folder), world)).packed()


def killed_in_the_second_epoch(data: str, folder: str) -> None:
    """Dies of SIGKILL when the second epoch is half over."""
    torch.set_num_threads(1)
    with Dataset.open(data) as dataset:
        world = World(0, 1, 0, torch.device("cpu"))

        def die(what: str, done: int, total: int) -> None:
            if done > 1.4 * dataset.num_samples:
                os.kill(os.getpid(), signal.SIGKILL)

        crops = crops_for(dataset, Path(folder), world)
        trained_heads(corners(), replace(crops, reading=Reading(world, "reference", 1, 5, die)))
