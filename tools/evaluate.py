"""`viewmill evaluate`: what a backbone has learnt, beside an untrained one and simple floors."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "viewmill evaluate RUN --train DATASET --on TEST --tasks knn,linear"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a run, a checkpoint or an export; timm:NAME; torchvision:NAME or NAME=FILE.",
        ),
    ],
    train: Annotated[str, typer.Option(metavar="DATASET", help="Labelled images to learn classes from.")],
    on: Annotated[str, typer.Option(metavar="DATASET", help="Labelled images to classify.")],
    tasks: Annotated[
        str,
        typer.Option(
            help="With commas between: knn (k = 20 and 200), knn@K, linear, lowshot (1 % and 10 % of the "
            "labels), lowshot@PERCENT, sgd, svm; crops@imagenet, crops@places205, crops@lightly (SGD on "
            "random crops, as published); of TEST alone geometry, semantics, wordnet (semantics without a "
            "text model), diagnosis (what the method tells)."
        ),
    ] = "knn,linear",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where evaluation/ goes.", show_default="the run's folder"),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=8, help="Side of the views, pixels.", show_default="the run's")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Compare these classes alone: a file with a name a line, or a,b,c."
        ),
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Zip or folder of WordNet 3.0.",
            show_default="where NLTK keeps it, NLTK_DATA",
        ),
    ] = None,
    synsets: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML of class names and what they mean: 'crane: crane.n.04'."),
    ] = None,
    crops_epochs: Annotated[
        int | None, typer.Option(min=1, help="Epochs of crops.", show_default="as published")
    ] = None,
    crops_rates: Annotated[
        str | None,
        typer.Option(
            metavar="R,R,...", help="Learning rates of crops, trained at once.", show_default="the protocol's"
        ),
    ] = None,
    crops_untrained: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=3,
            help="Untrained backbones that crops trains classifiers on, each at the cost of the trained one.",
            show_default="1",
        ),
    ] = None,
    executor: Annotated[str, typer.Option(help="Who renders the views: auto, dali or reference.")] = "auto",
    num_threads: Annotated[int, typer.Option(min=1, help="Of the executor.")] = 2,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a forward.")] = 64,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the backbone runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
) -> None:
    """Measure a backbone on frozen features: k-NN, a linear probe, their geometry and what they mean.

    The untrained backbone is the best of three seeds; raw pixels and colour histograms are the floors.
    engine/evaluation/README.md defines every figure. crops runs the backbone on all training images in each
    epoch: it says how often before it starts, and goes on where it was interrupted.
    Several ranks share the work: torchrun --nproc_per_node 2 -m viewmill.tools.cli evaluate, and the same
    after it.
    """
    from viewmill.shards.storage.mirror import read_info_at

    for path in (train, on):
        read_info_at(path)  # a wrong path is told before torch is imported
    from viewmill.engine.evaluation.crops.protocol import crop_options
    from viewmill.engine.evaluation.data_sets import read_class_names
    from viewmill.engine.evaluation.evaluate import evaluate
    from viewmill.engine.world import start_world, stop_world
    from viewmill.shards.manifest import Dataset

    crops = crop_options(crops_epochs, crops_rates, crops_untrained)
    world = start_world(device)
    try:
        with Dataset.open(train) as known, Dataset.open(on) as asked, progress_bar("evaluate") as show:
            entries = evaluate(
                source,
                known,
                asked,
                [task.strip() for task in tasks.split(",")],
                world=world,
                out=out,
                executor=executor,
                num_threads=num_threads,
                batch_size=batch_size,
                image_size=image_size,
                classes=None if classes is None else read_class_names(classes),
                wordnet=wordnet,
                synsets=synsets,
                crops=crops,
                say=lambda line: print(line, file=sys.stderr),
                progress=lambda what, done, total: show(done, total, what),
            )
    finally:
        stop_world(world)
    if world.rank:
        return
    if json:
        print_json(entries)
    else:
        from rich.console import Console

        console, scored = Console(), [entry for entry in entries if "measures" not in entry]
        if scored:
            console.print(summary_table(scored))
            print_line("z: trained - untrained, in standard errors of the difference over the same images")
        for entry in entries:
            if "measures" in entry:
                console.print(measures_table(entry))


def summary_table(entries: list[dict[str, Any]]) -> "Table":
    """A line a task: accuracies in percent, and how many standard errors trained is above untrained."""
    from viewmill.tools.tables import new_table

    floors = list(dict.fromkeys(name for entry in entries for name in entry["floors"]))
    rows = []
    for entry in entries:
        shares = [entry["trained"], entry["untrained"], *(entry["floors"].get(name) for name in floors)]
        z = "-" if entry["z_score"] is None else f"{entry['z_score']:+.1f}"
        cells = ["-" if share is None else f"{100 * share:.1f} %" for share in shares]
        rows.append((entry["task"], f"{entry['n']:,}", *cells, z))
    names = [name.replace("_", " ") for name in floors]
    table = new_table("top-1 accuracy", ("task", "images", "trained", "untrained", *names, "z"), rows)
    table.columns[0].no_wrap = True  # a task is typed as it stands here; headings may break instead
    return table


def measures_table(entry: dict[str, Any]) -> "Table":
    """A line a figure, of a task that has figures instead of an accuracy."""
    from viewmill.tools.html_page import figure
    from viewmill.tools.tables import new_table

    rows = [
        (name.replace("_", " "), figure(found["trained"]), figure(found["untrained"]))
        for name, found in entry["measures"].items()
    ]
    return new_table(f"{entry['task']}, {entry['n']:,} images", ("figure", "trained", "untrained"), rows)
