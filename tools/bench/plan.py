"""`bench plan`: predictions of `viewmill plan` beside trainings on this machine and published runs."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table
from viewmill.engine.config import RunConfig, load_config
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import PLAN
from viewmill.tools.bench.spread import medians
from viewmill.tools.planning.calibrate import SETTINGS, Sample, fit_steps, measure_parts, variant
from viewmill.tools.planning.cluster import Cluster, load_cluster
from viewmill.tools.planning.images import Images, images_of
from viewmill.tools.planning.measured import Measured
from viewmill.tools.planning.predict import Plan, predict
from viewmill.tools.planning.published import LOADERS, compare
from viewmill.tools.planning.trained_steps import StepTimes, measure_steps
from viewmill.tools.planning.workload import count_workload

# Side of the views, global batch, ranks: none of them is fitted to.
Setting = tuple[int, int, int]
CHECKED: tuple[Setting, ...] = ((96, 16, 1), (160, 8, 1), (80, 12, 1), (64, 16, 2), (96, 16, 2), (128, 16, 2))


def run(
    data: str,
    *,
    recipe: str = "hydes_imagenette",
    overrides: Sequence[str] = (),
    fitted: Sequence[tuple[int, int]] = SETTINGS,
    checked: Sequence[tuple[int, int, int]] = CHECKED,
    steps: int = 6,
    repeats: int = 3,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Fits the constants of a core to trainings on one rank, and predicts others, on one rank and on several.

    All settings are trained in turn, round by round, in processes that hold a core each (or share one, where
    there are fewer). Seconds of a step are compared, medians over the rounds: it wants a machine with no
    other work. The fit takes processor seconds, the same on one rank; they are stored beside the wall's.

    Args:
        data: a data set with a batch of each setting.
        fitted: (side, batch) on one rank.
        checked: (side, batch, ranks); a pair that is fitted too is refused.
        steps: of each training that count; repeats: rounds.

    Returns:
        JSON-able: constants, rows with measured and predicted seconds and images/s, the largest error; the
        published runs; load and fingerprint.

    Raises:
        ValueError: a checked setting is a fitted one.
    """
    if any(ranks == 1 and (size, batch) in fitted for size, batch, ranks in checked):
        raise ValueError(f"{checked}: a setting on one rank is fitted to; check others")
    tell, load_before = progress or (lambda _: None), os.getloadavg()
    config, images = load_config(recipe, list(overrides)), images_of(data)
    tell("the parts alone")
    base = measure_parts(config, data, sorted({size for size, _ in fitted}), images)
    settings = [*((size, batch, 1) for size, batch in fitted), *checked]
    found = _measure(config, data, settings, steps=steps, repeats=repeats, tell=tell)
    samples = [
        Sample(one := variant(config, size, batch), count_workload(one), found[size, batch, 1]["cpu_s"])
        for size, batch in fitted
    ]
    rates = fit_steps(base, samples, images)
    rows = [
        _row(config, setting, found[setting], images, rates, is_fitted=setting in settings[: len(fitted)])
        for setting in settings
    ]
    return {
        "bench": "plan",
        "settings": {"recipe": recipe, "overrides": list(overrides), "steps": steps, "repeats": repeats},
        "images": images.model_dump(),
        "measured": rates.model_dump(),
        "cores": len(os.sched_getaffinity(0)),
        "rows": rows,
        "largest_error": max(abs(row["error"]) for row in rows if not row["fitted"]),
        "published": compare(),
        "goals": PLAN,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint("simpy"),
    }


def _measure(
    config: RunConfig,
    data: str,
    settings: Sequence[Setting],
    *,
    steps: int,
    repeats: int,
    tell: Callable[[str], None],
) -> dict[Setting, dict[str, Any]]:
    """Medians over the rounds, and their ranges."""
    rounds: dict[Setting, list[StepTimes]] = {setting: [] for setting in settings}
    for number in range(repeats):
        for ranks in sorted({setting[2] for setting in settings}):
            tell(f"round {number + 1} of {repeats}: {ranks} ranks")
            mine = [setting for setting in settings if setting[2] == ranks]
            configs = [variant(config, size, batch) for size, batch, _ in mine]
            times = measure_steps(configs, data, world_size=ranks, steps=steps)
            for setting, one in zip(mine, times, strict=True):
                rounds[setting].append(one)
    return {setting: medians([one._asdict() for one in found]) for setting, found in rounds.items()}


def _row(
    config: RunConfig,
    setting: Setting,
    found: dict[str, Any],
    images: Images,
    rates: Measured,
    *,
    is_fitted: bool,
) -> dict[str, Any]:
    """Measured and predicted of one setting; a rank has a core of its own in both."""
    size, batch, ranks = setting
    chosen = variant(config, size, batch)
    made = predict(Plan(chosen, count_workload(chosen), images, cores(ranks), rates))
    return {
        "size": size,
        "batch_size": batch,
        "ranks": ranks,
        "fitted": is_fitted,
        **found,
        "images_per_s": batch / found["wall_s"],
        "predicted_s": made.step_s,
        "predicted_images_per_s": made.images_per_s,
        "error": made.images_per_s * found["wall_s"] / batch - 1,
        "seconds": made.seconds,
    }


def cores(ranks: int) -> Cluster:
    """The `cpu` preset with a core a rank."""
    changes = [f"{name}={ranks}" for name in ("ranks_per_node", "physical_cores", "cpu_threads")]
    return load_cluster("cpu", changes)


def tables(result: dict[str, Any]) -> list[Table]:
    """The figures of a result, for the terminal."""
    trained = Table(title=f"images/s: {result['settings']['recipe']}, a core a rank")
    for heading in ("views", "batch", "ranks", "measured", "predicted", "error", "wall s", "cpu s"):
        trained.add_column(heading, justify="right")
    for row in result["rows"]:
        error = "fitted" if row["fitted"] else f"{100 * row['error']:+.1f} %"
        trained.add_row(
            str(row["size"]), str(row["batch_size"]), str(row["ranks"]), f"{row['images_per_s']:.2f}",
            f"{row['predicted_images_per_s']:.2f}", error, f"{row['wall_s']:.2f}", f"{row['cpu_s']:.2f}",
        )  # fmt: skip
    return [trained, published_table(result["published"])]


def published_table(rows: list[dict[str, Any]]) -> Table:
    """Published hours beside both predictions."""
    shown = Table(title="100 epochs of ImageNet, ResNet-50, 2 x 224, batch 2,048, 32 V100: hours")
    shown.add_column("run")
    for heading in ("published", *(f"by {name}" for name in LOADERS), "binds", "GB", "predicted GB"):
        shown.add_column(heading, justify="right")
    for row in rows:
        cells = [f"{row[name]['hours']:.1f} ({100 * row[name]['error']:+.0f} %)" for name in LOADERS]
        binds = "/".join(dict.fromkeys(row[name]["binding"] for name in LOADERS))
        peak = "" if row["peak_gb"] is None else f"{row['peak_gb']}"
        shown.add_row(row["name"], f"{row['hours']}", *cells, binds, peak, f"{row['predicted_gb']:.1f}")
    return shown
