"""`viewmill report`: a run as one HTML file that needs no network."""

import base64
import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import print_json, print_line
from viewmill.tools.html_page import (
    check_target,
    clock,
    environment,
    figure,
    megabytes,
    percent,
    plotly_script,
    script_json,
    write_page,
)

if TYPE_CHECKING:
    from viewmill.tools.run_reader import Run

EXAMPLE = "viewmill report RUN --data DATASET"
TEMPLATE = "report.html.j2"
SAMPLE_IMAGES = 6
# Curves by name: title, unit and what to know. Numbers that are not listed follow under their own name.
CURVES = {
    "loss": ("Loss", "nats", "of the global batch"),
    "mutual_information": ("Mutual information", "nats", "alpha H_global - beta H_local"),
    "h_global": ("Global entropy", "nats", "over all views of the batch"),
    "h_local": ("Local entropy", "nats", "over the views of one image"),
    "invariance": ("Transform invariance", "nats", "IMSVD's TI"),
    "diagonal_entropy": ("Diagonal entropy", "nats", "IMSVD's w_DE DE"),
    "offdiagonal_entropy": ("Off-diagonal entropy", "nats", "IMSVD's w_OE OE"),
    "unit_usage": ("Unit usage", "share", "entropy of a variable's mean over its largest value"),
    "one_hot_90": ("One-hot variables", "share", "whose largest probability exceeds 0.9"),
    "one_hot_99": ("One-hot variables", "share", "whose largest probability exceeds 0.99"),
    "sharpness": ("Sharpness", "probability", "the largest of a variable's units, mean"),
    "prior_entropy": ("Entropy of cluster sizes", "nats", "log K where all are equally large"),
    "student_entropy": ("Entropy of the student's clusters", "nats", "of one view"),
    "target_entropy": ("Entropy of the targets", "nats", "of one view"),
    "batch_top1": ("Top-1 of the batch", "share", "of the augmented views, before the update"),
    "prediction_entropy": ("Entropy of the predicted classes", "nats", "log K where nothing is told"),
    "mean_cosine": ("Mean cosine of two images", "", "1 where all look alike"),
    "effective_rank": ("Effective rank", "dimensions", "of the embeddings of one rank's first images"),
    "lr": ("Learning rate", "", ""),
    "grad_norm": ("Gradient norm", "", "over all ranks"),
    "images_per_s": ("Throughput", "images/s", "of all ranks"),
    "data_wait_fraction": ("Data wait", "share of time", "spent waiting for views"),
    "rank_wait_fraction": ("Wait for ranks", "share of time", "that rank 0 spent waiting for the slowest"),
    "step_s": ("Step time", "s", "mean since the line before"),
    "step_p50_s": ("Step time, median", "s", "since the line before"),
    "step_p95_s": ("Step time, 95th percentile", "s", "since the line before"),
    "memory_peak_mib": ("Peak memory", "MiB", "of rank 0, on its device"),
}


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DATASET", help="The data set, for a picture of its views.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it goes.", show_default="RUN/report.html")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write curves, evaluation, views, throughput and settings of a run into one HTML file.

    The file needs no network and no other file.
    """
    from viewmill.tools.run_reader import read_run

    found = read_run(run)
    target = out or run / "report.html"
    check_target(target)
    size = write_page(target, render(found, sample_views(found, data) if data is not None else None))
    if json:
        print_json({"report": str(target), "bytes": size, "status": found.status})
    else:
        print_line(f"{target}: {found.status}, {megabytes(size)}; open it in a browser")


def render(run: "Run", views_png: bytes | None) -> str:
    """The page. Names and texts of the run are escaped, plotly.js stands in it once."""
    from viewmill.tools.pictures.album import FOLDER, read_album

    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            run=run,
            name=run.path.absolute().name,
            charts=script_json(charts(run)),
            evaluation=[evaluation_row(entry) for entry in run.evaluation if "measures" not in entry],
            measures=[measures_rows(entry) for entry in run.evaluation if "measures" in entry],
            sheet=base64.b64encode(run.sheet).decode() if run.sheet is not None else None,
            throughput=throughput(run),
            details=[event_row(event) for event in run.events],
            environment=flat(run.environment),
            pictures=read_album(run.path / FOLDER),
            views=base64.b64encode(views_png).decode() if views_png is not None else None,
            plotly=plotly_script(),
            written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        )
    )


def charts(run: "Run") -> list[dict[str, Any]]:
    """One chart a logged number: title, unit, note and the curve's points."""
    known = [name for name in CURVES if name in run.names()]
    others = [name for name in run.names() if name not in CURVES]
    drawn = []
    for name in known + others:
        title, unit, note = CURVES.get(name, (name, "", ""))
        points = run.curve(name)
        if any(value is not None for _, value in points):
            steps, values = zip(*points, strict=True)
            drawn.append({"title": title, "unit": unit, "note": note, "x": steps, "y": values})
    return drawn


def evaluation_row(entry: dict[str, Any]) -> dict[str, Any]:
    """A task with its bars: [(name, share of 1 or None)], and trained - untrained with its standard error."""
    from viewmill.tools.run_reader import number

    trained, untrained = number(entry.get("trained")), number(entry.get("untrained"))
    error = number(entry.get("standard_error"))
    floors = entry.get("floors")
    bars = [("trained", trained), ("untrained", untrained)]
    if isinstance(floors, dict):
        bars += [(str(name).replace("_", " "), number(value)) for name, value in floors.items()]
    z = (trained - untrained) / error if trained is not None and untrained is not None and error else None
    return {"task": str(entry.get("task")), "n": entry.get("n"), "bars": bars, "error": error, "z": z}


def measures_rows(entry: dict[str, Any]) -> dict[str, Any]:
    """A task that has figures instead of an accuracy: rows of name, trained and untrained."""
    from viewmill.tools.run_reader import number

    tree = entry.get("measures")
    rows = [
        (str(name).replace("_", " "), number(found.get("trained")), number(found.get("untrained")))
        for name, found in (tree.items() if isinstance(tree, dict) else ())
        if isinstance(found, dict)
    ]
    return {"task": str(entry.get("task")), "n": entry.get("n"), "rows": rows}


def throughput(run: "Run") -> list[tuple[str, str]]:
    """Medians over the run, and its length."""
    wait = run.median("data_wait_fraction")
    rows = [
        ("images/s, median", figure(run.median("images_per_s"))),
        ("step, median", f"{figure(run.median('step_s'))} s"),
        ("data wait, median", percent(wait)),
        ("steps", figure(run.last("step"))),
        ("samples", figure(run.last("samples"))),
        ("time", clock(run.last("time_s"))),
    ]
    return rows if run.metrics else []


def event_row(event: dict[str, Any]) -> dict[str, str]:
    """Time, step, kind and the rest of an event as text."""
    rest = {name: value for name, value in event.items() if name not in ("event", "step", "time")}
    return {
        "time": str(event.get("time", "")),
        "step": str(event.get("step", "")),
        "kind": str(event.get("event", "")),
        "rest": ", ".join(f"{name} {json.dumps(value)}" for name, value in rest.items()),
    }


def sample_views(run: "Run", data: Path) -> bytes:
    """PNG of a few images and the views that this run makes of them in its first epoch.

    Raises:
        ValueError: the run trains on another data set.
    """
    from viewmill.engine.checks import resolve_views
    from viewmill.engine.config import load_config
    from viewmill.shards.manifest import Dataset
    from viewmill.tools.contact_sheet import contact_sheet, spread_ids

    config = load_config(run.path / "config.yaml")
    with Dataset.open(data) as dataset:
        if run.data_set_hash not in (None, dataset.data_set_hash):
            raise ValueError(
                f"--data {data}: its data set hash is {dataset.data_set_hash[:16]}..., the run was "
                f"trained on {str(run.data_set_hash)[:16]}...; give the run's data set, or leave --data out"
            )
        ids = spread_ids(dataset.num_samples, SAMPLE_IMAGES)
        sheet = contact_sheet(dataset, ids, resolve_views(config), seed=config.seed)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """{"packages": {"torch": "2"}} as {"packages.torch": "2"}."""
    rows: dict[str, str] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict)
        rows |= flat(value, f"{prefix}{name}.") if nested else {f"{prefix}{name}": str(value)}
    return rows
