"""`bench doctor`: the gains that `profile` predicts beside those of real runs with the changed settings."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Group
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.recipe_file import apply_override
from viewmill.engine.world import World, start_world, stop_world
from viewmill.shards.convert import convert
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import DOCTOR
from viewmill.tools.bench.spread import spread
from viewmill.tools.bench.turns import Turn, Variant, calmest, take_turns
from viewmill.tools.doctor.examination import examine
from viewmill.tools.doctor.verdict import verdict
from viewmill.tools.tables import new_table

AS_IT_IS = "as it is"
LEAST_GAIN = 0.01  # by which an error of the gain is divided at least


class Scenario(NamedTuple):
    """A run, and the kinds of changes that are made to it, each by its best setting."""

    settings: tuple[str, ...]
    kinds: tuple[str, ...]


# The smallest networks and heads, so that on a CPU something else than they can be what a step waits for; and
# batches by which a change gains several times what turns scatter.
SMALL_HEAD = ("method.projector.hidden=32", "method.projector.dim=16")
SCENARIOS = {
    "views": Scenario(
        ("model.backbone=test_vit", *SMALL_HEAD, "views.preset=dino_global@16", "batch_size=64"),
        ("threads", "resolution"),
    ),
    "steps": Scenario(("model.backbone=test_resnet", "views.preset=hydes@32", "batch_size=2"), ("batch",)),
}
ONE_THREAD = ("views.num_threads=1", "torch_threads=1")


class Sizes(NamedTuple):
    """How much is measured: steps and turns of the runs, rounds and their steps of the profiles."""

    steps: int = 40
    repeats: int = 5
    spare_turns: int = 0
    profile_rounds: int = 5
    profile_steps: int = 12


def run(
    data: str,
    sizes: Sizes,
    *,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Profiles runs, makes the changes that it predicts something for, and measures what they bring.

    Of each scenario the run as it is and each of its changes train in turns; a share is the median over the
    `repeats` calmest turns of the ratio of their images/s to those of the unchanged run of the same turn. The
    profile is made twice, before and after.

    Args:
        data: a data set of JPEGs.
        overrides: `key=value` settings of every run.

    Returns:
        JSON-able: settings, changes (see `comparisons`), profiles and their stages, images_per_s and
        other_work of every turn, goals, load, fingerprint.

    Raises:
        ValueError: numbers below 1. ConfigError: settings that a run refuses.
    """
    if min(sizes._replace(spare_turns=1)) < 1 or sizes.spare_turns < 0:
        raise ValueError(f"{sizes.steps} steps, {sizes.repeats} repeats: all numbers must be >= 1")
    tell, load_before, world = progress or (lambda _: None), os.getloadavg(), start_world("cpu")
    changes, profiles, stages = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    per_s, others = dict[str, Any](), dict[str, Any]()
    try:
        for name, scenario in SCENARIOS.items():
            config = config_of(scenario, overrides)
            found, turns = examined(name, config, scenario.kinds, data, world, sizes, tell)
            kept = calmest(turns, sizes.repeats)
            changes |= {f"{name}: {key}": row for key, row in comparisons(found, kept).items()}
            for when, profile in zip(("before", "after"), found, strict=True):
                profiles[f"{name}, {when}"] = summary(profile)
                stages[f"{name}, {when}"] = stages_of(profile)
            per_s[name] = {key: [turn[key].images_per_s for turn in turns] for key in turns[0]}
            others[name] = {key: [turn[key].other_work for turn in turns] for key in turns[0]}
    finally:
        stop_world(world)
    return {
        "bench": "doctor",
        "settings": {
            **sizes._asdict(),
            "overrides": list(overrides),
            "scenarios": {name: " ".join(one.settings + ONE_THREAD) for name, one in SCENARIOS.items()},
        },
        "changes": changes,
        "profiles": profiles,
        "stages": stages,
        "images_per_s": per_s,
        "other_work": others,
        "goals": DOCTOR,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint(),
    }


def config_of(scenario: Scenario, overrides: Sequence[str]) -> RunConfig:
    """The run as it is; it writes no checkpoints."""
    tree: dict[str, Any] = {"epochs": 1, "device": "cpu", "checkpoint": {"every_epochs": None}}
    for override in (*scenario.settings, *ONE_THREAD, *overrides):
        apply_override(tree, override)
    return config_from(tree, where="bench doctor")


def examined(
    name: str,
    config: RunConfig,
    kinds: Sequence[str],
    data: str,
    world: World,
    sizes: Sizes,
    tell: Callable[[str], None],
) -> tuple[list[dict[str, Any]], list[Turn]]:
    """A scenario's profiles, and the turns of its runs between them."""

    def told(text: str) -> None:
        tell(f"{name}: {text}")

    def profiled() -> dict[str, Any]:
        rounds, steps = sizes.profile_rounds, sizes.profile_steps
        return examine(config, data, world=world, rounds=rounds, steps=steps, tell=told)

    with tempfile.TemporaryDirectory() as folder:
        before = profiled()
        variants = [
            Variant(AS_IT_IS, config, data),
            *variants_of(before, kinds, config, data, folder),
        ]
        count = sizes.repeats + sizes.spare_turns
        turns = take_turns(variants, world, Path(folder), steps=sizes.steps, count=count, tell=told)
        return [before, profiled()], turns


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


def comparisons(profiles: list[dict[str, Any]], turns: list[Turn]) -> dict[str, dict[str, Any]]:
    """Of each change predicted beside measured images/s, as shares of the unchanged run's: 1.5 is +50 %.

    Returns:
        By setting: kind; predicted and measured with their ranges, of the profiles and of the turns; errors
        (predicted / measured - 1, of each profile); error, the worst of them; gain_error, the worst by
        (predicted - 1) / (measured - 1), which is what a reader of "+50 %" takes it for.
    """
    found = {}
    for setting in turns[0]:
        made = [one for profile in profiles for one in profile["changes"] if one["setting"] == setting]
        if not made:
            continue
        predictions = [1 + one["gain"] for one in made]
        shares = [turn[setting].images_per_s / turn[AS_IT_IS].images_per_s for turn in turns]
        share = median(shares)
        gain = max(LEAST_GAIN, abs(share - 1))
        found[setting] = {
            "kind": made[0]["name"],
            "predicted": median(predictions),
            "predicted_range": [min(predictions), max(predictions)],
            "measured": share,
            "measured_range": [min(shares), max(shares)],
            "errors": [one / share - 1 for one in predictions],
            "error": max(abs(one / share - 1) for one in predictions),
            "gain_error": max(abs(one - share) / gain for one in predictions),
        }
    return found


def summary(profile: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a profile beside its stages."""
    diagnosis, rank = profile["diagnosis"], profile["ranks"][0]
    return {
        "verdict": verdict(profile)[0],
        "step_ms": 1000 * diagnosis["step_s"],
        "step_ms_range": [1000 * seconds for seconds in rank["step_range"]],
        "model_ms": 1000 * diagnosis["model_step_s"],
        "unexplained": diagnosis["unexplained_s"] / diagnosis["step_s"],
        "data_wait_ms": 1000 * diagnosis["data_wait_s"],
        "processor_ms": 1000 * rank["together_cpu_s"],
        "cores": rank["cores"],
        "other_work": rank["other_work"],
    }


def stages_of(profile: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Milliseconds of each stage."""
    return {
        stage["name"]: {
            "alone_ms": 1000 * stage["alone_s"],
            "processor_ms": 1000 * stage["cpu_s"],
            "in_the_loop_ms": None if stage["observed_s"] is None else 1000 * stage["observed_s"],
            "charged_ms": 1000 * stage["charged_s"],
        }
        for stage in profile["diagnosis"]["stages"]
    }


def tables(result: dict[str, Any]) -> Group:
    """The figures of a result, for the terminal."""
    changes = [
        (
            name,
            spread(one, "predicted", 2),
            spread(one, "measured", 2),
            f"{one['error']:.0%}",
            f"{one['gain_error']:.0%}",
        )
        for name, one in result["changes"].items()
    ]
    profiles = [
        (
            name,
            spread(one, "step_ms", 1),
            f"{one['model_ms']:.1f}",
            f"{one['unexplained']:+.0%}",
            f"{one['other_work']:.2f}",
        )
        for name, one in result["profiles"].items()
    ]
    title = (
        "images/s, as a share of the unchanged run's; goal: images/s and gain within "
        f"{DOCTOR['images_per_s']:.0%}"
    )
    return Group(
        new_table(title, ("change", "predicted", "measured", "error", "of the gain"), changes),
        new_table(
            f"steps; goal: unexplained within {DOCTOR['unexplained']:.0%}",
            ("profile", "ms in the loop", "by its stages", "unexplained", "processors at other work"),
            profiles,
        ),
    )
