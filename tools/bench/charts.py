"""What the plots of a benchmark show: bars of the figures that it is about."""

from typing import Any, NamedTuple

from viewmill.tools.bench.result import Result
from viewmill.tools.inspection.charts import NAME_LENGTH, Bars, Chart


class Plot(NamedTuple):
    """Where rows {name: {column: number}} stand in the figures, and which column, by dotted paths."""

    rows: str
    column: str
    title: str
    unit: str


PLOTS = {
    "loader": (Plot("peers", "cpu_ms_per_image", "CPU time of an image", "ms"),),
    "gpu": (Plot("figures", "images_per_s", "Speed", "images/s"),),
    "train": (
        Plot("peers", "wall_ms", "Wall time of a step", "ms"),
        Plot("peers", "cpu_ms", "Processor time of a step", "ms"),
    ),
    "doctor": (
        Plot("changes", "predicted", "Predicted images/s, as a share of the unchanged run's", ""),
        Plot("changes", "measured", "Measured images/s, as a share of the unchanged run's", ""),
        Plot("profiles", "step_ms", "Step in the loop", "ms"),
        Plot("profiles", "model_ms", "Step by the stages alone", "ms"),
    ),
    "prior": (Plot("peers", "cpu_ms", "CPU time of an image", "ms"),),
    "methods": (
        Plot("rows", "knn.trained", "k-NN of the trained backbone", "share of 1"),
        Plot("rows", "cpu_seconds", "Processor time of the run", "s"),
    ),
    "knn": (
        Plot("peers", "cpu_seconds", "Processor time of the search", "s"),
        Plot("peers", "extra_mib", "Memory beside the features", "MiB"),
    ),
    "sentinels": (Plot("recipes", "look_ms", "CPU time of a look", "ms"),),
    "parity": tuple(
        Plot(f"executors.{name}", "mean", f"Mean difference, {name}", "of 255")
        for name in ("host", "resident", "dali", "dali-operators", "ffcv")
    ),
    "order": (
        Plot("kinds", "first_batch_ms", "Time to the first batch", "ms"),
        Plot("kinds", "resident_mib", "Memory", "MiB"),
    ),
    "convert": (
        Plot("peers", "seconds", "Wall time", "s"),
        Plot("reencode.peers", "seconds", "Wall time of re-encoding", "s"),
        Plot("betons.peers", "seconds", "Wall time of writing betons", "s"),
    ),
    "loss hydes": (
        Plot("peers", "seconds", "Wall time of loss and gradient", "s"),
        Plot("peers", "extra_mib", "Memory beside inputs", "MiB"),
    ),
    "loss imsvd": (
        Plot("peers", "seconds", "Wall time of loss and gradient", "s"),
        Plot("peers", "extra_mib", "Memory beside inputs", "MiB"),
        Plot("ranks", "flops", "Multiplications of a rank, by world size", ""),
    ),
    "evaluation": (Plot("tasks", "trained", "Accuracy of the trained backbone", "share of 1"),),
}


def charts_of(result: Result, section: str) -> list[Chart]:
    """The plots of one result that it has figures for; `section`: where they stand on a page."""
    charts = []
    for number, plot in enumerate(PLOTS.get(result.bench, ())):
        rows = at(result.figures, plot.rows)
        found = {name: at(row, plot.column) for name, row in rows.items()} if isinstance(rows, dict) else {}
        values = {
            name: value for name, value in found.items() if isinstance(value, (int, float)) and value > 0
        }
        if values:
            names = [name[:NAME_LENGTH] for name in values]
            file = f"{result.bench.replace(' ', '_')}_{number}"
            bars = Bars(names, list(values.values()))
            charts.append(Chart(section, file, plot.title, plot.unit, plot.unit, "", bars))
    return charts


def at(tree: Any, path: str) -> Any:
    """The value at a dotted path; None where there is none."""
    for name in path.split("."):
        if not isinstance(tree, dict) or name not in tree:
            return None
        tree = tree[name]
    return tree
