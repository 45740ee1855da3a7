"""`viewmill bench methods`: the families side by side."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

EXAMPLE = "viewmill bench methods --data TRAIN --on TEST --folder RUNS --out methods.json"


def methods(
    data: Annotated[str, typer.Option(metavar="DATASET", help="Trained on; the labelled bank of k-NN.")],
    on: Annotated[str, typer.Option(metavar="DATASET", help="Labelled images to classify.")],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the runs' folders go.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-methods.json"
    ),
    runs: Annotated[
        str | None, typer.Option(help="Some of them, with commas between.", show_default="all")
    ] = None,
    size: Annotated[int, typer.Option(min=8, help="Side of the global views, pixels.")] = 32,
    batch_size: Annotated[
        int, typer.Option(min=2, help="Images of a step; IMSVD, of 2 views: twice as many.")
    ] = 128,
    epochs: Annotated[int, typer.Option(min=1, help="Of the schedules; IMSVD: twice as many.")] = 8,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Stop before the schedule ends.", show_default="its end")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, and of the executor.")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="Of all runs.")] = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="On top of every recipe; may be given several times."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train every method for as many steps on the same images, and compare their k-NN with the floors.

    The figures are stored after every run. The same command goes on where an earlier one was stopped.
    """
    from viewmill.tools.bench.methods import RUNS, run, table

    check_folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with told() as tell:
        figures = run(
            data,
            on,
            folder,
            out,
            names=tuple(runs.split(",")) if runs else tuple(RUNS),
            size=size,
            batch_size=batch_size,
            epochs=epochs,
            max_steps=max_steps,
            threads=threads,
            seed=seed,
            settings=tuple(settings or ()),
            progress=tell,
        )
    keep(figures, out, table, json)
