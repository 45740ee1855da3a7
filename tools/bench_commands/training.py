"""`viewmill bench` of a training as a whole: train."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

TRAIN_EXAMPLE = "viewmill bench train --data DATASET --out train.json"


def train(
    data: Annotated[str, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-train.json"
    ),
    method: Annotated[str, typer.Option(help="hydes, imsvd or distill.")] = "hydes",
    backbone: Annotated[str, typer.Option(help="By timm's name.")] = "resnet18",
    preset: Annotated[str, typer.Option(help="Views: NAME or NAME@SIZE.")] = "hydes",
    batch_size: Annotated[int, typer.Option(min=2, help="Images of a step.")] = 8,
    steps: Annotated[int, typer.Option(min=1, help="Of a round, with one checkpoint.")] = 100,
    block: Annotated[int, typer.Option(min=1, help="Steps before it is the other side's turn.")] = 20,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch and of the executor.")] = 2,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the run; several times."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what a run takes beside the bare forward, backward and update on the same batches, on the CPU.

    A real run and bare steps take turns in one process. The overhead is given with the wait for data and
    without it, and in processor time with the making of the views and without it.
    """
    from viewmill.tools.bench.train import run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            data,
            method=method,
            backbone=backbone,
            view_preset=preset,
            batch_size=batch_size,
            steps=steps,
            block=block,
            repeats=repeats,
            threads=threads,
            overrides=override or (),
            progress=tell,
        )
    keep(figures, out, table, json)
