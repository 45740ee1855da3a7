"""`viewmill bench` of data sets on disk: manifest, convert."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

MANIFEST_EXAMPLE = "viewmill bench manifest --rows 100000000 --folder SCRATCH --out manifest.json"


def manifest(
    folder: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the data set is made, and removed again.")
    ] = Path(),
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-manifest.json"
    ),
    rows: Annotated[int, typer.Option(min=1024, help="Samples; 36 bytes of disk each.")] = 10_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 5,
    parquet: Annotated[
        bool, typer.Option(help="Make manifest.parquet too, and query it: about 20 bytes more each.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Open a data set of many samples and find the rows of one batch: seconds and memory."""
    from viewmill.tools.bench.manifest import run, table

    check_folder(out)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; make it first")
    with told() as tell:
        figures = run(rows, folder, repeats=repeats, parquet=parquet, progress=tell)
    keep(figures, out, table, json)


CONVERT_EXAMPLE = "viewmill bench convert --source photographs/train --out convert.json"


def convert(
    source: Annotated[Path, typer.Option(metavar="FOLDER", help="Images; JPEGs tell the most.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-convert.json"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Processes per peer; the figures are medians.")] = 5,
    workers: Annotated[int, typer.Option(min=1, help="Of every peer.")] = 1,
    img2dataset: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="An interpreter with img2dataset: compare re-encoding with it."),
    ] = None,
    ffcv: Annotated[
        bool, typer.Option("--ffcv", help="Compare writing betons with FFCV's writer, which is needed.")
    ] = False,
    max_side: Annotated[
        int | None,
        typer.Option(min=1, help="Longer side that re-encoding makes, pixels.", show_default="500"),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Of the JPEGs that re-encoding writes.", show_default="95"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare conversion with loops that copy and hash the same files, with and without decoding them.

    Copies are written below the system's temporary folder (TMPDIR), one at a time. img2dataset needs other
    releases of some packages than this environment has, so it has one of its own:
    python -m venv peers; peers/bin/pip install img2dataset; then --img2dataset peers/bin/python.
    """
    from viewmill.tools.bench.convert import run, table

    check_folder(out)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; give a folder of images")
    if (max_side is not None or quality is not None) and img2dataset is None and not ffcv:
        raise ValueError(
            "--max-side and --quality are of re-encoding: give --img2dataset PYTHON or --ffcv too"
        )
    if ffcv and importlib.util.find_spec("ffcv") is None:
        raise ModuleNotFoundError("--ffcv needs FFCV; run: pip install 'viewmill[ffcv]'")
    if img2dataset is not None and not img2dataset.is_file():
        raise FileNotFoundError(f"{img2dataset}: no such interpreter; give a Python that has img2dataset")
    with told() as tell:
        figures = run(
            source,
            repeats=repeats,
            workers=workers,
            img2dataset=img2dataset,
            ffcv=ffcv,
            max_side=max_side or 500,
            quality=quality or 95,
            progress=tell,
        )
    keep(figures, out, table, json)
