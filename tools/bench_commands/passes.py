"""`viewmill bench` of what training does beside its steps: passes over a whole data set, and sentinels."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

PRIOR_EXAMPLE = "viewmill bench prior --data DATASET --images 64 --out prior.json"
SENTINELS_EXAMPLE = "viewmill bench sentinels --out sentinels.json"


def prior(
    data: Annotated[str, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-prior.json"
    ),
    images: Annotated[int, typer.Option(min=1, help="Of a round; a multiple of the batch.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a step and of a forward.")] = 16,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch and of the executor.")] = 2,
    backbone: Annotated[str, typer.Option(help="By timm's name.")] = "resnet18",
    preset: Annotated[str, typer.Option(help="Views of training: NAME or NAME@SIZE.")] = "hydes",
    pass_size: Annotated[
        list[int] | None,
        typer.Option(help="Side of the pass's views; may be given several times.", show_default="224, 160"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare a full-data pass for cluster priors with the training epoch that it serves, on the CPU.

    Both go over as many images in turn, so that a busy machine slows both; ratios are of CPU time.
    """
    from viewmill.tools.bench.prior import run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            data,
            images=images,
            batch_size=batch_size,
            repeats=repeats,
            threads=threads,
            backbone=backbone,
            view_preset=preset,
            pass_sizes=tuple(pass_size or (224, 160)),
            progress=tell,
        )
    keep(figures, out, table, json)


def sentinels(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-sentinels.json"
    ),
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="May be given several times.", show_default="hydes_cifar10, imsvd_cifar10, distill_prior"
        ),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="For every recipe; several times.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure what looking for a collapse costs, as a share of the training step it looks at, on the CPU.

    A step and its sentinels in turn, in CPU time, for each recipe, on random views.
    """
    from viewmill.tools.bench.sentinels import RECIPES, run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            recipe or RECIPES, overrides=override or (), repeats=repeats, threads=threads, progress=tell
        )
    keep(figures, out, table, json)
