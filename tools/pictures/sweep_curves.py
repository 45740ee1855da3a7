"""Learning curves over the settings of a sweep, from the folders of its runs (HyDeS, figures 6 to 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from viewmill.tools.html_page import shown
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.plots import Canvas, Curve, draw_curves
from viewmill.tools.report import CURVES
from viewmill.tools.run_reader import Run, number, read_json_lines, read_run

SEED = "seed"  # runs that differ in it alone are repeats of one setting
ASIDE = ("event", "time", "step", "seconds", "best")
MAX_RUNS = 200
REPEATED = "Lines: means over runs that differ elsewhere; bands: from the least to the largest. "


@dataclass(frozen=True)
class Sweep:
    """Runs, and what each is set to where they differ, by the dotted names of the settings."""

    runs: list[Run]
    settings: list[dict[str, Any]]
    varied: list[str]  # names of the settings that differ, the seed apart


def read_sweep(folder: Path) -> Sweep:
    """The runs in a folder, one a sub-folder.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        RuntimeError: a run cannot be read; names the file.
        ValueError: more runs than one can tell apart.
    """
    paths = sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no runs in it; give the folder of viewmill launch --sweep")
    if len(paths) > MAX_RUNS:
        raise ValueError(f"{folder}: {len(paths)} runs, {MAX_RUNS} are the most of a picture")
    runs = [read_run(path) for path in paths]
    trees = [settings_of(run) for run in runs]
    names = dict.fromkeys(name for tree in trees for name in tree)
    differing = [name for name in names if len({repr(tree.get(name)) for tree in trees}) > 1]
    settings = [{name: tree.get(name) for name in differing} for tree in trees]
    return Sweep(runs, settings, [name for name in differing if name != SEED])


def settings_of(run: Run) -> dict[str, Any]:
    """The resolved settings of a run by dotted name.

    Raises:
        RuntimeError: its config.yaml is no YAML of settings.
    """
    path = run.path / "config.yaml"
    try:
        tree = yaml.safe_load(run.config)
    except yaml.YAMLError as error:
        raise RuntimeError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(tree, dict):
        raise RuntimeError(f"{path}: expected settings, found {type(tree).__name__}")
    return leaves(tree)


def leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def figures_in(runs: Sequence[Run]) -> tuple[list[str], list[str]]:
    """Tasks that were measured between epochs, and numbers that were logged, each as they come up."""
    tasks = [name for run in runs for event in evaluations(run) for name in event if name not in ASIDE]
    return list(dict.fromkeys(tasks)), list(dict.fromkeys(name for run in runs for name in run.names()))


def evaluations(run: Run) -> list[dict[str, Any]]:
    """What was measured between epochs, from the first epoch on."""
    return events_of(run, "evaluation")


def events_of(run: Run, kind: str) -> list[dict[str, Any]]:
    """All events of a kind; `Run.events` has the last ones alone."""
    return [line for line in read_json_lines(run.path / "events.jsonl") if line.get("event") == kind]


def chosen_figure(sweep: Sweep, asked: str | None) -> str:
    """The figure to draw: the one asked for, else the linear probe, else k-NN, else the loss.

    Raises:
        ValueError: no run has the one that is asked for.
    """
    tasks, logged = figures_in(sweep.runs)
    if asked is None:
        return next((task for task in ("linear", *tasks) if task in tasks), "loss")
    if asked not in (*tasks, *logged):
        raise ValueError(
            f"--figure {asked}: no run has it; measured between epochs: {', '.join(tasks) or 'nothing'}; "
            f"logged: {', '.join(logged)}"
        )
    return asked


def points_of(run: Run, figure: str) -> list[tuple[float, float]]:
    """(epoch, value) of one figure along a run; a value that is missing or not finite is left out.

    1.0 is the end of the first epoch. A run whose first epoch has not ended has no points yet.
    """
    ended = events_of(run, "epoch")
    last_step, last_epoch = (number(ended[-1].get(name)) if ended else None for name in ("step", "epoch"))
    if not last_step or last_epoch is None:
        return []
    measured = evaluations(run)
    if any(figure in event for event in measured):
        rows = [(number(event.get("step")), number(event.get(figure))) for event in measured]
    else:
        rows = [(step, value) for step, value in run.curve(figure)]
    steps = last_step / (last_epoch + 1)
    return [(step / steps, value) for step, value in rows if step is not None and value is not None]


def curves_of(sweep: Sweep, figure: str, by: Sequence[str]) -> dict[str, Curve]:
    """A curve a setting of `by`, in the order of its values: the mean over runs that agree in it.

    Raises:
        ValueError: `by` names what does not differ, or no run has a point.
    """
    for name in by:
        if name not in sweep.varied:
            raise ValueError(
                f"--by {name}: the runs do not differ in it; they differ in "
                f"{', '.join(sweep.varied) or 'nothing'}"
            )
    groups: dict[tuple[str, ...], list[list[tuple[float, float]]]] = {}
    order = sorted(
        range(len(sweep.runs)), key=lambda run: [sort_key(sweep.settings[run][name]) for name in by]
    )
    for run in order:
        points = points_of(sweep.runs[run], figure)
        if points:
            groups.setdefault(tuple(str(sweep.settings[run][name]) for name in by), []).append(points)
    if not groups:
        raise ValueError(f"{figure}: no run of the sweep has a point of it yet")
    ends = [name.rpartition(".")[2] for name in by]
    return {
        ", ".join(f"{end} = {value}" for end, value in zip(ends, values, strict=True)) or "all": pooled(group)
        for values, group in groups.items()
    }


def pooled(group: Sequence[Sequence[tuple[float, float]]]) -> Curve:
    """Mean, least and largest of runs where all of them have a point.

    Raises:
        ValueError: there is no such epoch.
    """
    tables = [{round(x, 6): y for x, y in points} for points in group]
    common = sorted(set(tables[0]).intersection(*tables[1:]))
    if not common:
        raise ValueError("runs of one setting have no epoch in common yet; name more settings with --by")
    values = np.array([[table[x] for x in common] for table in tables])
    x = np.array(common)
    return Curve(x, values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(group))


def sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    known = number(value)
    return (0, known, "") if known is not None else (1, 0.0, str(value))


def curves_plate(sweep: Sweep, figure: str, by: Sequence[str], folder: Path, command: str) -> Plate:
    """The curves of a sweep as a picture."""
    tasks, _ = figures_in(sweep.runs)
    curves = curves_of(sweep, figure, by)
    is_task = figure in tasks
    title, unit, note = CURVES.get(figure, (figure, "", ""))
    heading = f"{figure} along the training" if is_task else title
    repeats = max(curve.runs for curve in curves.values())
    what = f"Top-1 accuracy of {figure}, measured between epochs" if is_task else f"{title} {note}".strip()
    repeated = REPEATED if repeats > 1 else ""
    caption = (
        f"{what}, of {sum(curve.runs for curve in curves.values())} runs in "
        f"{shown(folder.absolute().name)}, by {', '.join(by) or 'nothing'}. {repeated}{command}"
    )
    y = "top-1, %" if is_task else unit or figure
    height = 5.6 if any(len(curve.x) >= 8 for curve in curves.values()) else 3.8
    return Plate(
        f"curves-{safe(figure)}",
        heading,
        caption,
        lambda theme: Canvas(theme, heading, caption, height).draw(
            lambda drawn: draw_curves(drawn, curves, "epoch", y, percent=is_task, theme=theme)
        ),
        photographs=False,
    )


def safe(figure: str) -> str:
    """A figure's name as that of a file."""
    return "".join(
        char if char.isascii() and (char.isalnum() or char in "@_-") else "-" for char in figure.lower()
    )
