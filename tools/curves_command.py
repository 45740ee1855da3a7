"""`viewmill curves`: how the runs of a sweep learn, a curve a setting."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import print_json, print_line

EXAMPLE = "viewmill curves SWEEP --by method.kappa"


def command(
    sweep: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder that holds the runs' folders.")],
    by: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help="Settings, with commas between, that have a curve each; runs that agree are averaged.",
            show_default="all in which the runs differ, but the seed",
        ),
    ] = None,
    figure: Annotated[
        str | None,
        typer.Option(
            help="A task that was measured between epochs, or a number of the log.",
            show_default="linear, else another task, else loss",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the pictures go.", show_default="SWEEP/pictures"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the curves as JSON.")] = False,
) -> None:
    """Draw the learning curves of a sweep, as the papers do over kappa, beta and the projector's width.

    The runs need no more than their folders; they may be under way. Accuracies are there where training had
    `evaluation` or `--on`.
    """
    from viewmill.tools.pictures.album import FOLDER, write_album
    from viewmill.tools.pictures.page import write_pictures_page
    from viewmill.tools.pictures.sweep_curves import chosen_figure, curves_of, curves_plate, read_sweep

    found = read_sweep(sweep)
    chosen = chosen_figure(found, figure)
    keys = found.varied if by is None else [key.strip() for key in by.split(",")]
    name = sweep.absolute().name
    words = ["viewmill", "curves", name, "--figure", chosen, *(["--by", ",".join(keys)] if keys else [])]
    plate = curves_plate(found, chosen, keys, sweep, shlex.join(words))
    folder = sweep / FOLDER if out is None else out
    written = write_album([plate], folder)
    page = write_pictures_page(folder, name, f"{len(found.runs)} runs of a sweep", shlex.join(words))
    if json:
        curves = {
            label: {"epoch": curve.x.tolist(), "mean": curve.middle.tolist(), "runs": curve.runs}
            for label, curve in curves_of(found, chosen, keys).items()
        }
        print_json({"figure": chosen, "by": keys, "curves": curves, "files": [str(path) for path in written]})
    else:
        print_line(f"{page}: {chosen} of {len(found.runs)} runs; open it in a browser")
