"""Scaling curves: the same run on 1 to 1,024 nodes, with one global batch (strong) or one a rank (weak)."""

from pathlib import Path
from typing import Any, NamedTuple

from viewmill.engine.strict import ConfigError
from viewmill.tools.planning.predict import Plan, Prediction, predict

NODES = tuple(2**power for power in range(11))


class Point(NamedTuple):
    """The run on a cluster of so many nodes."""

    nodes: int
    ranks: int
    batch_size: int
    images_per_s: float
    efficiency: float  # images/s a rank, over that of the first point
    binding: str
    hours: float


class Curve(NamedTuple):
    """The run on several clusters; `left_out`: nodes -> why it cannot be there."""

    points: list[Point]
    left_out: dict[int, str]


def strong(plan: Plan, nodes: tuple[int, ...] = NODES) -> Curve:
    """The plan's global batch on each."""
    return _curve([plan._replace(cluster=plan.cluster.with_nodes(count)) for count in nodes])


def weak(plan: Plan, nodes: tuple[int, ...] = NODES) -> Curve:
    """The plan's images a rank on each, so that the global batch grows with the ranks."""
    per_rank = max(1, plan.config.batch_size // plan.cluster.world_size)
    plans = []
    for count in nodes:
        cluster = plan.cluster.with_nodes(count)
        batch = max(2, per_rank * cluster.world_size)
        plans.append(
            plan._replace(cluster=cluster, config=plan.config.model_copy(update={"batch_size": batch}))
        )
    return _curve(plans)


def _curve(plans: list[Plan]) -> Curve:
    found: list[tuple[Plan, Prediction]] = []
    left_out: dict[int, str] = {}
    for plan in plans:
        try:
            found.append((plan, predict(plan)))
        except ConfigError as error:
            left_out[plan.cluster.nodes] = str(error)
    if not found:
        return Curve([], left_out)
    first = found[0][1].images_per_s / found[0][0].cluster.world_size
    points = [
        Point(
            plan.cluster.nodes,
            plan.cluster.world_size,
            plan.config.batch_size,
            made.images_per_s,
            made.images_per_s / plan.cluster.world_size / first,
            made.binding,
            made.hours,
        )
        for plan, made in found
    ]
    return Curve(points, left_out)


def charts_of(curves: dict[str, Curve]) -> list[dict[str, Any]]:
    """What both pictures show: title, unit, and a line a curve, with the ideal beside them."""
    told = (
        ("throughput", "Throughput", "images/s", lambda point: point.images_per_s),
        ("efficiency", "Efficiency", "a rank's rate, of the first", lambda point: point.efficiency),
        ("hours", "Time to the end", "hours, without failures", lambda point: point.hours),
    )  # fmt: skip
    return [
        {
            "name": name,
            "title": title,
            "unit": unit,
            "lines": [
                {
                    "name": kind,
                    "x": [point.nodes for point in curve.points],
                    "y": [value(point) for point in curve.points],
                    "binding": [point.binding for point in curve.points],
                }
                for kind, curve in curves.items()
                if curve.points
            ],
        }
        for name, title, unit, value in told
    ]


def write_plots(charts: list[dict[str, Any]], folder: Path, caption: str) -> list[Path]:
    """FOLDER/scaling-NAME.png of each chart; the folder is made if only it is missing.

    Raises:
        FileNotFoundError: the folder that it would stand in is not there.
    """
    import matplotlib as mpl
    import matplotlib.style
    from matplotlib.figure import Figure
    from viewmill.tools.inspection.bins import nice_ticks
    from viewmill.tools.inspection.plots import ACCENT, BAR, DPI, SOFT, STYLE, WIDTH, set_ticks

    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"{folder}: there is no folder {folder.absolute().parent}; make it first")
    folder.mkdir(exist_ok=True)
    written = []
    with mpl.style.context(["default", STYLE]):
        for chart in charts:
            drawn = Figure(figsize=(WIDTH, 3.8), layout="constrained")
            axes = drawn.subplots()
            axes.set_title(chart["title"], loc="left", fontsize=11, fontweight="bold")
            for line, colour in zip(chart["lines"], (ACCENT, BAR), strict=False):
                axes.plot(line["x"], line["y"], marker="o", markersize=3, color=colour, label=line["name"])
            axes.set_xscale("log", base=2)
            if chart["name"] == "efficiency":
                axes.set_ylim(bottom=0)
            else:
                axes.set_yscale("log")
                values = [value for line in chart["lines"] for value in line["y"]]
                set_ticks(axes.yaxis, nice_ticks([min(values) / 1.2, max(values) * 1.2]))
            ticks = sorted({x for line in chart["lines"] for x in line["x"]})
            axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
            axes.set_xlabel("nodes")
            axes.set_ylabel(chart["unit"])
            axes.grid(True)
            axes.legend(frameon=False)
            drawn.supxlabel(caption, fontsize=6.5, color=SOFT, x=0.01, ha="left")
            path = folder / f"scaling-{chart['name']}.png"
            drawn.savefig(path, dpi=DPI)
            written.append(path)
    return written
