"""Variants of a run that train in turns, for ratios that a machine's other work does not bend."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.train import train
from viewmill.engine.trainer import Trainer
from viewmill.engine.world import World
from viewmill.pipelines.loader import Batch
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor.cores import Elsewhere
from viewmill.tools.doctor.examination import blocks_of

WARM_UP = 6  # steps, besides those that find ready batches


class Variant(NamedTuple):
    """A run as it is measured."""

    name: str
    config: RunConfig
    data: str


class Trained(NamedTuple):
    """What one run gave."""

    images_per_s: float
    other_work: float  # processors that other programs kept at work meanwhile


Turn = dict[str, Trained]  # by the names of the variants


def take_turns(
    variants: list[Variant],
    world: World,
    folder: Path,
    *,
    steps: int,
    count: int,
    tell: Callable[[str], None],
) -> list[Turn]:
    """Every variant trains once a turn, `count` times.

    Each turn begins with another variant: what a machine does meanwhile hits none of them every time.
    """
    turns = []
    for number in range(count):
        first = number % len(variants)
        found: Turn = {}
        for variant in variants[first:] + variants[:first]:
            tell(f"turn {number + 1} of {count}: {variant.name}")
            found[variant.name] = trained(variant, world, folder / f"{number}-{len(found)}", steps)
        turns.append(found)
    return turns


def calmest(turns: list[Turn], count: int) -> list[Turn]:
    """The turns in which other programs worked least, by the worst of their runs; whatever they gave."""
    ranked = sorted(turns, key=lambda turn: max(one.other_work for one in turn.values()))
    kept = ranked[:count]
    return [turn for turn in turns if any(turn is one for one in kept)]


def trained(variant: Variant, world: World, run_dir: Path, steps: int) -> Trained:
    """A run of so many steps, after those that warm up and use ready batches."""
    config = variant.config
    first = WARM_UP + blocks_of(config, 1, 1).skip
    tree = config.model_dump(mode="json")
    with Dataset.open(variant.data) as dataset:
        per_epoch = max(1, dataset.num_samples // config.batch_size)
    tree["max_steps"] = first + steps
    tree["epochs"] = max(config.epochs, -(-tree["max_steps"] // per_epoch))
    began_s, found = 0.0, Trained(0.0, 0.0)
    elsewhere, own_s = Elsewhere(), 0.0

    def watch(trainer: Trainer, _: list[Batch]) -> None:
        nonlocal began_s, found, elsewhere, own_s
        if trainer.step == first:
            elsewhere, own_s = Elsewhere(), time.process_time()
            began_s = time.perf_counter()
        elif trainer.step == first + steps:
            passed_s = time.perf_counter() - began_s
            others = elsewhere.processors(time.process_time() - own_s)
            found = Trained(config.batch_size * steps / passed_s, others)

    train(config_from(tree, where="bench doctor"), variant.data, run_dir, world=world, watch=watch)
    return found
