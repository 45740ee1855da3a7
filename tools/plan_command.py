"""`viewmill plan`: what a run needs before it is started: speed, memory, traffic, hours and money."""

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    from viewmill.engine.config import RunConfig
    from viewmill.tools.planning.images import Images
    from viewmill.tools.planning.report import Report

EXAMPLE = "viewmill plan imsvd_imagenet --images 1281167 --cluster h100 precision=bf16 views.num_threads=14"


def command(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe's name, or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings on top of the recipe.")
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(metavar="PRESET|FILE", help="v100, v100_npl, a100, h100, h200, cpu, or a YAML file."),
    ] = "h100",
    data: Annotated[
        str | None, typer.Option(metavar="DATASET", help="The images; or say --images and the means.")
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="So many images.")] = None,
    mean_bytes: Annotated[
        float | None, typer.Option(min=1, help="Of an image on disk.", show_default="ImageNet's, 110000")
    ] = None,
    mean_pixels: Annotated[
        float | None, typer.Option(min=1, help="Width x height.", show_default="ImageNet's, 187500")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Of the cluster.", show_default="its own")] = None,
    cluster_set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the cluster; several times."),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What --calibrate wrote, or profile --json printed.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measure this machine's cores first, by short trainings; needs --data."
        ),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Simulated runs, for the goodput.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulation.")] = 0,
    why: Annotated[bool, typer.Option("--why", help="Print every formula with its numbers.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write tables, formulas and scaling curves as a page.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the scaling curves as PNGs.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Predict images/s, the resource that binds, memory, traffic, hours and cost of a run on a cluster.

    Nothing is trained, but with --calibrate. Speeds are a datasheet's, times the share that published
    trainings have reached, or measured ones. Failures are simulated, for the best interval of checkpoints.
    """
    from viewmill.tools.html_page import check_target

    for target in (html, calibrate):
        if target is not None:
            check_target(target)
    if calibrate is not None and (data is None or measured is not None):
        raise ValueError(
            "--calibrate trains on --data DATASET and takes the place of --measured: give --data"
        )
    from viewmill.engine.config import load_config
    from viewmill.tools.planning.cluster import load_cluster

    config = load_config(recipe, overrides)
    changes = [*(cluster_set or []), *([f"nodes={nodes}"] if nodes is not None else [])]
    found = load_cluster(cluster, changes)
    if calibrate is not None and found.gpu is not None:
        raise ValueError(
            f"--calibrate measures this machine's cores, and {cluster} has GPUs: on one of them run viewmill "
            "profile RECIPE --json, and give that as --measured FILE"
        )
    told = images_told(data, images, mean_bytes, mean_pixels)
    if calibrate is not None:
        write_measured(config, data or "", calibrate)
        measured = calibrate
    from viewmill.tools.planning.reliability import simulations
    from viewmill.tools.planning.report import make_report

    done = count(1)
    with progress_bar("simulate runs") as told_of:
        report = make_report(
            config,
            told,
            found,
            measured,
            runs=runs,
            seed=seed,
            progress=lambda: told_of(next(done), simulations(runs)),
        )
    show(report, recipe, html, plots, why=why, json=json)


def images_told(
    data: str | None, number: int | None, mean_bytes: float | None, mean_pixels: float | None
) -> "Images":
    """Of a data set, or as said; ImageNet's means where nothing is."""
    from viewmill.tools.planning.images import IMAGENET, images_of

    if data is not None:
        if number is not None or mean_bytes is not None or mean_pixels is not None:
            raise ValueError("--data says what --images, --mean-bytes and --mean-pixels would: give one")
        return images_of(data)
    given = {"count": number, "mean_bytes": mean_bytes, "mean_pixels": mean_pixels}
    return IMAGENET.model_copy(update={name: value for name, value in given.items() if value is not None})


def write_measured(config: "RunConfig", data: str, target: Path) -> None:
    """Measures, and keeps what was found."""
    from rich.console import Console
    from viewmill.tools.planning.calibrate import calibrate

    console = Console(stderr=True)
    with console.status("measuring this machine") as status:
        made = calibrate(config, data, progress=status.update if console.is_terminal else None)
    target.write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")


def show(
    report: "Report", recipe: str, html: Path | None, plots: Path | None, *, why: bool, json: bool
) -> None:
    """The figures, as tables or JSON; pages and pictures where they are asked for."""
    from viewmill.tools.planning.page import render
    from viewmill.tools.planning.scaling import charts_of, write_plots

    written = []
    name = f"{recipe} on {report.prediction.plan.cluster.nodes} x {report.prediction.plan.cluster.name}"
    if html is not None:
        from viewmill.tools.html_page import write_page

        write_page(html, render(report, name))
        written.append(html)
    if plots is not None:
        written += write_plots(charts_of(report.curves), plots, f"{name}; viewmill plan")
    if json:
        print_json(report.as_dict() | {"written": [str(path) for path in written]})
        return
    from rich.console import Console
    from viewmill.tools.planning.report import tables_of
    from viewmill.tools.tables import new_table

    console = Console()
    for title, headings, rows in tables_of(report):
        console.print(new_table(title, headings, rows))
    for line in report.lines():
        print_line(line)
    if why:
        for formula in report.prediction.formulas:
            print_line(formula.line())
    for path in written:
        print_line(f"written: {path}")
