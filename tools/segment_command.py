"""`viewmill segment`: how well a backbone's maps tell the class of every pixel, beside an untrained one's."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from viewmill.tools.console import print_json, print_line, progress_bar

if TYPE_CHECKING:
    from rich.table import Table

EXAMPLE = "viewmill segment RUN --data VOCdevkit/VOC2012 --image-size 512"


def command(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder of a run, a checkpoint or an export; timm:NAME; torchvision:NAME or NAME=FILE.",
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|TABLE",
            help="Folder as PASCAL VOC lays it out; or a .tsv or .csv with columns split, image, mask. Its "
            "paths start from its folder, or are members of the tar of its name beside it.",
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names of the mask values 0, 1, ...: a file with a name a line, or a,b,c.",
            show_default="of a folder: VOC's 21",
        ),
    ] = None,
    ignore: Annotated[int, typer.Option(min=0, help="Mask value of pixels that count for nothing.")] = 255,
    train_split: Annotated[str, typer.Option(help="What the probe learns from.")] = "train",
    test_split: Annotated[str, typer.Option(help="What it is tested on.")] = "val",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where evaluation/segmentation/ goes.", show_default="the run's folder"
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=8, help="Longer side of the pictures, pixels.", show_default="the run's views"),
    ] = None,
    keep_gib: Annotated[
        float,
        typer.Option(
            min=0,
            help="Maps of the training pictures stay in memory where they fit into it, on each rank; else "
            "each epoch computes them again, to the same numbers.",
        ),
    ] = 2.0,
    images: Annotated[int, typer.Option(min=1, help="Test pictures on the sheet.")] = 6,
    num_threads: Annotated[int, typer.Option(min=1, help="That read and decode.")] = 2,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the backbone runs.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print summary.json.")] = False,
) -> None:
    """Train a linear probe on the hypercolumns of a frozen backbone, and tell mean IoU and pixel accuracy.

    The untrained backbone is the best of three seeds; the floors are one class everywhere, and the same probe
    of colours alone. sheet.png shows test pictures, their masks and both predictions.
    engine/evaluation/README.md defines every figure and tells the cost.
    Several ranks share the work: torchrun --nproc_per_node 2 -m viewmill.tools.cli segment, and the same
    after it.
    """
    from viewmill.engine.evaluation.dense.pairs import open_labelled

    names = None
    if classes is not None:
        from viewmill.engine.evaluation.data_sets import read_class_names

        names = read_class_names(classes)
    # What is wrong with a path is told before a group of ranks is made.
    labelled = open_labelled(
        data, classes=names, ignored=ignore, train_split=train_split, test_split=test_split
    )
    from viewmill.engine.evaluation.dense.segmentation import segment
    from viewmill.engine.world import start_world, stop_world
    from viewmill.tools.mask_sheet import mask_sheet

    world = start_world(device)
    try:
        with progress_bar("segment") as show:
            found = segment(
                source,
                labelled,
                world=world,
                out=out,
                image_size=image_size,
                num_threads=num_threads,
                keep_bytes=int(keep_gib * 2**30),
                num_shown=images,
                progress=lambda what, done, total: show(done, total, what),
            )
    finally:
        stop_world(world)
    if world.rank:
        return
    sheet = found.folder / "sheet.png"
    mask_sheet(found.shown, labelled).save(sheet, "PNG")
    if json:
        print_json(found.entries)
        return
    from rich.console import Console

    Console().print(segmentation_table(found.entries[0]))
    print_line(
        f"{sheet}: {len(found.shown)} test pictures; figures by class are in segmentation.json beside it"
    )


def segmentation_table(entry: dict[str, Any]) -> "Table":
    """A line a figure, in percent: trained, untrained, floors where there are some."""
    from viewmill.tools.html_page import percent
    from viewmill.tools.tables import new_table

    floors = list(entry["floors"])
    rows = []
    for name, found in entry["measures"].items():
        of_floors = [percent(entry["floors"][floor]) if name == "mean_iou" else "" for floor in floors]
        rows.append(
            (name.replace("_", " "), percent(found["trained"]), percent(found["untrained"]), *of_floors)
        )
    z = "" if entry["z_score"] is None else f", mean IoU's z {entry['z_score']:+.1f}"
    columns = ("figure", "trained", "untrained", *(floor.replace("_", " ") for floor in floors))
    return new_table(f"segmentation, {entry['n']:,} images{z}", columns, rows)
