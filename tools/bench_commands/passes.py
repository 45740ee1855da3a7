"""`viewmill bench` of what is done beside the steps: passes over a data set, sentinels, k-NN's search."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

PRIOR_EXAMPLE = "viewmill bench prior --data DATASET --images 64 --out prior.json"
KNN_EXAMPLE = "viewmill bench knn --threads 2 --out knn.json"
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


def knn(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-knn.json"
    ),
    queries: Annotated[int, typer.Option(min=512, help="Of the slice; a multiple of 512.")] = 1024,
    bank: Annotated[int, typer.Option(min=2, help="Rows that are searched; a multiple of 16,384.")] = 65_536,
    width: Annotated[int, typer.Option(min=1, help="Features of a row.")] = 2048,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 200,
    threads: Annotated[int, typer.Option(min=1, help="Of torch and scikit-learn.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare the exact search of k-NN with others on a slice of ImageNet-1k; extrapolate to all of it.

    The slice's bank is held in memory: 512 MiB by default, and twice that while it is normalised at once.
    """
    from viewmill.tools.bench.knn import run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            queries=queries, bank=bank, width=width, k=k, threads=threads, repeats=repeats, progress=tell
        )
    keep(figures, out, table, json)
