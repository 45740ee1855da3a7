"""What ranks see of a pass over a data set, in a module that is quick to import, since every rank does."""

from typing import Any

import torch
from torch import Tensor, nn
from viewmill.engine.agreement import RankError
from viewmill.engine.evaluation.features import extract, gather_rows
from viewmill.engine.world import World
from viewmill.pipelines.passes import ids_of_rank
from viewmill.shards.errors import ShardError
from viewmill.shards.manifest import Dataset

SETTINGS: dict[str, Any] = {"image_size": 32, "executor": "reference", "num_threads": 1}


class ColorMeans(nn.Module):
    """Three features: the mean of each channel."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def on_a_rank(rank: int, data: str) -> dict[str, Any]:
    """What one of two ranks sees."""
    world = World(rank, 2, rank, torch.device("cpu"))
    with Dataset.open(data) as dataset:
        found = extract(ColorMeans(), dataset, world=world, batch_size=2, **SETTINGS)
        # Fewer rows than ranks: the first rank's share is empty.
        few = torch.tensor([7.0])[list(ids_of_rank(1, rank, 2))]
        seen = {"features": found.features, "labels": found.labels, "few": gather_rows(few, 1, world)}
        if rank == 1:
            dataset.read = unreadable  # type: ignore[method-assign]
        try:
            extract(ColorMeans(), dataset, world=world, **SETTINGS)
        except (RankError, ShardError) as error:
            seen["error"] = f"{type(error).__name__}: {error}"
    return seen


def unreadable(ids: Any) -> list[bytes]:
    raise ShardError("the shard is gone")
