"""`bench doctor`: the gains that `profile` predicts beside those of real runs with the changed settings."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.table import Table
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.recipe_file import apply_override
from viewmill.engine.train import train
from viewmill.engine.trainer import Trainer
from viewmill.engine.world import World, start_world, stop_world
from viewmill.pipelines.loader import Batch
from viewmill.shards.convert import convert
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.doctor.examination import blocks_of, examine
from viewmill.tools.tables import new_table

# What is asked of a prediction: images/s with the change within so much of those measured.
GOAL = 0.2
AS_IT_IS = "as it is"
WARM_UP = 6  # steps, besides those that find ready batches


class Scenario(NamedTuple):
    """A run, and the kinds of changes that are made to it, each by its best setting."""

    settings: tuple[str, ...]
    kinds: tuple[str, ...]


# The smallest networks, so that on a CPU something else than they can be what a step waits for.
SCENARIOS = {
    "views": Scenario(
        ("model.backbone=test_vit", "views.preset=dino_global@32", "batch_size=32"), ("threads", "resolution")
    ),
    "steps": Scenario(("model.backbone=test_resnet", "views.preset=hydes@32", "batch_size=4"), ("batch",)),
}
ONE_THREAD = ("views.num_threads=1", "torch_threads=1")


class Variant(NamedTuple):
    """A run as it is measured."""

    name: str
    config: RunConfig
    data: str


def run(
    data: str,
    *,
    overrides: Sequence[str] = (),
    steps: int = 40,
    repeats: int = 5,
    profile_rounds: int = 5,
    profile_steps: int = 12,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Profiles runs, makes the changes that it predicts something for, and measures what they bring.

    Of each scenario the run as it is and each of its changes train in turns, `repeats` times; a gain is the
    median over the turns of the ratio of their images/s to those of the unchanged run of the same turn. The
    profile is made twice, before and after.

    Args:
        data: a data set of JPEGs.
        overrides: `key=value` settings of every run.
        steps: of a run that count.

    Returns:
        JSON-able: scenarios by name (see `compared`), steps, repeats, goal, load, fingerprint.

    Raises:
        ValueError: numbers below 1. ConfigError: settings that a run refuses.
    """
    if min(steps, repeats, profile_rounds, profile_steps) < 1:
        raise ValueError(f"{steps} steps, {repeats} repeats: all numbers must be >= 1")
    tell, load_before, world = progress or (lambda _: None), os.getloadavg(), start_world("cpu")
    found = {}
    try:
        for name, scenario in SCENARIOS.items():
            tree: dict[str, Any] = {"epochs": 1, "device": "cpu", "checkpoint": {"every_epochs": None}}
            for override in (*scenario.settings, *ONE_THREAD, *overrides):
                apply_override(tree, override)
            config = config_from(tree, where="bench doctor")

            def profiled(config: RunConfig = config, name: str = name) -> dict[str, Any]:
                return examine(
                    config,
                    data,
                    world=world,
                    rounds=profile_rounds,
                    steps=profile_steps,
                    tell=lambda text: tell(f"{name}: {text}"),
                )

            with tempfile.TemporaryDirectory() as folder:
                profiles = [profiled()]
                changed = variants_of(profiles[0], scenario.kinds, config, data, folder)
                variants = [Variant(AS_IT_IS, config, data), *changed]
                turns = measure(variants, world, Path(folder), steps=steps, repeats=repeats, tell=tell)
                profiles.append(profiled())
            found[name] = compared(config, profiles, turns)
    finally:
        stop_world(world)
    return {
        "bench": "doctor",
        "scenarios": found,
        "steps": steps,
        "repeats": repeats,
        "goal": GOAL,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint(),
    }


def compared(
    config: RunConfig, profiles: list[dict[str, Any]], turns: list[dict[str, float]]
) -> dict[str, Any]:
    """A scenario's settings, profiles, images/s of every turn, and changes (see `comparisons`)."""
    return {
        "settings": config.model_dump(mode="json"),
        "profiles": [summary(found) for found in profiles],
        "images_per_s": {name: [turn[name] for turn in turns] for name in turns[0]},
        "changes": comparisons(profiles, turns),
    }


def variants_of(
    profile: dict[str, Any], kinds: Sequence[str], config: RunConfig, data: str, folder: str
) -> list[Variant]:
    """The run with the best setting of each kind of change."""
    found = []
    for kind in kinds:
        change = next((one for one in profile["changes"] if one["name"] == kind), None)
        if change is None:
            continue
        setting, changed, source = change["setting"], config, data
        if kind == "resolution":
            source = f"{folder}/smaller"
            convert(data, Path(source), resize=setting.rpartition(" ")[2])
        else:
            tree = config.model_dump(mode="json")
            apply_override(tree, setting)
            changed = config_from(tree, where="bench doctor")
        found.append(Variant(setting, changed, source))
    return found


def measure(
    variants: list[Variant],
    world: World,
    folder: Path,
    *,
    steps: int,
    repeats: int,
    tell: Callable[[str], None],
) -> list[dict[str, float]]:
    """Images/s of each variant, turn by turn."""
    turns = []
    for turn in range(repeats):
        # Each turn begins with another one: what a machine does meanwhile hits no variant every time.
        order = variants[turn % len(variants) :] + variants[: turn % len(variants)]
        found = {}
        for number, variant in enumerate(order):
            tell(f"turn {turn + 1} of {repeats}: {variant.name}")
            found[variant.name] = images_per_s(variant, world, folder / f"{turn}-{number}", steps)
        turns.append(found)
    return turns


def images_per_s(variant: Variant, world: World, run_dir: Path, steps: int) -> float:
    """Of a run of so many steps, after those that warm up and use ready batches."""
    config = variant.config
    first = WARM_UP + blocks_of(config, 1, 1).skip
    tree = config.model_dump(mode="json")
    with Dataset.open(variant.data) as dataset:
        per_epoch = max(1, dataset.num_samples // config.batch_size)
    tree["max_steps"] = first + steps
    tree["epochs"] = max(config.epochs, -(-tree["max_steps"] // per_epoch))
    times: dict[int, float] = {}

    def watch(trainer: Trainer, _: list[Batch]) -> None:
        times[trainer.step] = time.perf_counter()

    train(config_from(tree, where="bench doctor"), variant.data, run_dir, world=world, watch=watch)
    return config.batch_size * steps / (times[first + steps] - times[first])


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a profile."""
    from viewmill.tools.doctor.verdict import verdict

    kept = ("step_s", "model_step_s", "data_wait_s", "images_per_s", "binding", "stages", "observed", "paths")
    diagnosis = {name: found["diagnosis"][name] for name in kept}
    cores = found["ranks"][0]["cores"]
    return {"verdict": verdict(found), **diagnosis, "cores": cores, "changes": found["changes"]}


def comparisons(profiles: list[dict[str, Any]], turns: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Predicted beside measured images/s, as shares of the unchanged run's."""
    found = []
    for name in list(turns[0]):
        predictions = [
            1 + change["gain"]
            for profile in profiles
            for change in profile["changes"]
            if change["setting"] == name
        ]
        if not predictions:
            continue
        shares = [turn[name] / turn[AS_IT_IS] for turn in turns]
        share = median(shares)
        found.append(
            {
                "setting": name,
                "predicted": predictions,
                "measured": share,
                "measured_range": [min(shares), max(shares)],
                "errors": [predicted / share - 1 for predicted in predictions],
            }
        )
    return found


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    rows = [
        (
            name,
            one["setting"],
            ", ".join(f"{share:.2f}" for share in one["predicted"]),
            f"{one['measured']:.2f} ({one['measured_range'][0]:.2f}-{one['measured_range'][1]:.2f})",
            ", ".join(f"{error:+.0%}" for error in one["errors"]),
        )
        for name, scenario in result["scenarios"].items()
        for one in scenario["changes"]
    ]
    title = f"images/s, as a share of the unchanged run's; goal: errors within {result['goal']:.0%}"
    return new_table(title, ("", "change", "predicted", "measured", "error"), rows, numbers_from=2)
