"""A pass of the smallest kind: colour means and logits made of them; quick to import, since ranks do it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import PassReport, run_pass
from viewmill.engine.world import World
from viewmill.methods.moments import MomentsAccumulator
from viewmill.methods.priors import PriorAccumulator
from viewmill.pipelines.executors.reference import ReferenceExecutor
from viewmill.pipelines.views import ViewPlanner, preset
from viewmill.shards.manifest import Dataset

ALONE = World(0, 1, 0, torch.device("cpu"))
VIEWS = preset("eval@16")
WEIGHTS = torch.linspace(-3, 3, 12).view(4, 3)  # four clusters
TEMPERATURE = 0.7


class Stopped(Exception):
    """What ends a pass in a test."""


def rows_of(images: Tensor) -> dict[str, Tensor]:
    means = images.mean(dim=(2, 3))
    return {"mean": means, "prior": means @ WEIGHTS.T}


def stopping(after: int) -> Callable[[Tensor], Mapping[str, Tensor]]:
    """`rows_of` for so many batches, and then the end."""
    left = [after]

    def embed(images: Tensor) -> Mapping[str, Tensor]:
        if not left[0]:
            raise Stopped
        left[0] -= 1
        return rows_of(images)

    return embed


def small_pass(
    dataset: Dataset,
    *,
    embed: Callable[[Tensor], Mapping[str, Tensor]] = rows_of,
    world: World = ALONE,
    batch_size: int = 3,
    folder: Path | None = None,
    **options: Any,
) -> tuple[PassReport, dict[str, Tensor]]:
    """The report, and what was found."""
    accumulators = {"mean": MomentsAccumulator(3), "prior": PriorAccumulator(4, TEMPERATURE)}
    reading = Reading(world, "reference", num_threads=1, batch_size=batch_size)
    options = {"views": VIEWS, "reading": reading, "folder": folder, "save_every": 1} | options
    report = run_pass(embed, dataset, accumulators, **options)
    moments, prior = accumulators["mean"], accumulators["prior"]
    assert isinstance(moments, MomentsAccumulator)
    assert isinstance(prior, PriorAccumulator)
    return report, {
        "mean": moments.mean(),
        "variance": moments.variance(),
        "prior": prior.log_prior().exp(),
        "counts": torch.tensor([moments.count, prior.count]),
    }


def expected_of(dataset: Dataset, ids: list[int]) -> dict[str, np.ndarray]:
    """The same of these samples, image by image, in float64 NumPy."""
    means, posteriors = [], []
    executor, planner = ReferenceExecutor(VIEWS, max_batch=1, num_threads=1), ViewPlanner(VIEWS, 0)
    for sample in ids:
        plan = planner.draw(0, [sample], dataset.sizes([sample]))
        image = executor.run(dataset.read([sample]), plan)[0][0].double().numpy()
        means.append(image.mean(axis=(1, 2)))
        weights = np.exp(WEIGHTS.double().numpy() @ means[-1] / TEMPERATURE)
        posteriors.append(weights / weights.sum())
    return {
        "mean": np.mean(means, axis=0),
        "variance": np.var(means, axis=0),
        "prior": np.maximum(np.mean(posteriors, axis=0), 1 / (4 * len(ids))),
        "counts": np.array([len(ids), len(ids)]),
    }
