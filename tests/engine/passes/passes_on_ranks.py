"""What ranks see of passes, in a module that is quick to import, since every rank does."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from viewmill.engine.agreement import RankError
from viewmill.engine.passes.kmeans import spherical_kmeans
from viewmill.engine.passes.reading import Reading
from viewmill.engine.world import World
from viewmill.shards.manifest import Dataset

from tests.engine.evaluation.features_on_ranks import ColorMeans
from tests.engine.passes.small_pass import VIEWS, Stopped, rows_of, small_pass, stopping


def on_a_rank(rank: int, data: str, folder: str, stop_rank: int | None) -> dict[str, Any]:
    """A whole pass, one over two samples, k-means, and the next session of the pass in `folder`.

    stop_rank: the rank that ends that session after its second batch; None: it goes on to the end.
    """
    world = World(rank, dist.get_world_size(), rank, torch.device("cpu"))
    seen: dict[str, Any] = {}
    with Dataset.open(data) as dataset:
        _, seen["whole"] = small_pass(dataset, world=world)
        report, seen["two"] = small_pass(dataset, world=world, ids=[5, 2])
        seen["two samples"] = report.num_samples
        reading = Reading(world, "reference", num_threads=1, batch_size=4)
        seen["prototypes"] = spherical_kmeans(
            ColorMeans(), dataset, 4, views=VIEWS, reading=reading
        ).prototypes
        embed = stopping(2) if rank == stop_rank else rows_of
        try:
            report, seen["resumed"] = small_pass(dataset, world=world, folder=Path(folder), embed=embed)
            seen["resumed at"] = report.resumed_at
        except (Stopped, RankError) as error:
            seen["error"] = f"{type(error).__name__}: {error}"
    return seen
