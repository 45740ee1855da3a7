"""An evaluation on two ranks, in a module without what only trainings import: every rank imports it anew."""

import math
from typing import Any

import torch
from viewmill.engine.evaluation.evaluate import evaluate
from viewmill.engine.world import World
from viewmill.shards.manifest import Dataset

SETTINGS: dict[str, Any] = {"executor": "reference", "num_threads": 1}


def evaluated(
    rank: int, run: str, train_path: str, test_path: str, tasks: tuple[str, ...], more: dict[str, Any]
) -> list[float | None]:
    """The figures of every task, as one of two ranks has them."""
    world = World(rank, 2, rank, torch.device("cpu"))
    with Dataset.open(train_path) as known, Dataset.open(test_path) as asked:
        found = evaluate(run, known, asked, tasks, world=world, **SETTINGS, **more)
    return figures_of(found)


def figures_of(entries: list[dict[str, Any]]) -> list[float]:
    """Accuracies and other figures, in the order of the summary; infinite where there is none."""
    found: list[float | None] = []
    for entry in entries:
        found += [entry[name] for name in ("trained", "untrained", "standard_error")]
        for both in entry.get("measures", {}).values():
            found += both.values()
    return [math.inf if value is None else value for value in found]
