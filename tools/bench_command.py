"""`viewmill bench NAME`: measures a part beside its peers, prints a table and stores the figures."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools import bench_loss_command
from viewmill.tools.bench_figures import check_folder, keep, told
from viewmill.tools.console import FAULTS, new_app, print_line

EXAMPLE = "viewmill bench loader --data DATASET --repeats 7 --out loader.json"

app = new_app("Measure a part beside its peers, in one run on the same inputs.", example=EXAMPLE)
app.add_typer(bench_loss_command.app, name="loss")


@app.command(epilog=f"Example: {EXAMPLE}")
def loader(
    data: Annotated[Path, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-loader.json"
    ),
    preset: Annotated[str, typer.Option(help="Views that every peer makes: NAME or NAME@SIZE.")] = "hydes",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 5,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a round.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Of every peer.")] = 1,
    executor: Annotated[
        list[str] | None, typer.Option(help="Ours; may be given several times.", show_default="host, dali")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare our loader with torchvision, lightly and DALI's own random operators, on the CPU.

    Every peer makes the same views of the same images with as many threads, in turn, so that a busy machine
    slows all of them; ratios are of CPU time an image. The peers need the extra 'baselines'.
    """
    from viewmill.tools.bench.loader import run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            data,
            repeats=repeats,
            batch_size=batch_size,
            threads=threads,
            executors=executor or ["host", "dali"],
            view_preset=preset,
            progress=tell,
        )
    keep(figures, out, table, json)


GPU_EXAMPLE = "viewmill bench gpu --data DATASET --out gpu.json"


@app.command(epilog=f"Example: {GPU_EXAMPLE}")
def gpu(
    data: Annotated[Path, typer.Option(metavar="DATASET", help="A data set of JPEGs at original size.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-gpu.json"
    ),
    preset: Annotated[str, typer.Option(help="Views: NAME or NAME@SIZE.")] = "hydes",
    backbone: Annotated[str, typer.Option(help="What is trained, by timm's name.")] = "resnet50",
    batch_size: Annotated[int, typer.Option(min=1, help="Images of a step.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="Of a round.")] = 50,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the figures are medians over them.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of each executor.")] = 8,
    device: Annotated[str, typer.Option(help="cuda, cuda:1; cpu only to see that it works.")] = "cuda",
    executor: Annotated[
        list[str] | None,
        typer.Option(help="May be given several times.", show_default="dali, host, resident"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Train from each executor's views and from views that lie on the GPU already: speed, waiting, pixels.

    Without a GPU there is nothing to measure: exit code 2.
    """
    from viewmill.tools.bench.gpu import EXECUTORS, run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            data,
            device=device,
            view_preset=preset,
            backbone=backbone,
            batch_size=batch_size,
            steps=steps,
            repeats=repeats,
            threads=threads,
            executors=executor or EXECUTORS,
            progress=tell,
        )
    keep(figures, out, table, json)


MANIFEST_EXAMPLE = "viewmill bench manifest --rows 100000000 --folder SCRATCH --out manifest.json"


@app.command(epilog=f"Example: {MANIFEST_EXAMPLE}")
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


PARITY_EXAMPLE = "viewmill bench parity --out parity.json"


@app.command(epilog=f"Example: {PARITY_EXAMPLE}")
def parity(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-parity.json"
    ),
    executor: Annotated[
        list[str] | None,
        typer.Option(help="NAME, or NAME@cuda; may be given several times.", show_default="all installed"),
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Put the table between this file's markers.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare the pixels of every executor with the reference's, by operator and by preset.

    Six photographs; largest and mean absolute difference (of 255) and PSNR. A mean over the published bound
    leaves exit code 3.
    """
    from viewmill.tools.bench.parity import beyond_bounds, run, table, write_into

    check_folder(out)
    if readme is not None and not readme.is_file():
        raise FileNotFoundError(f"{readme}: no such file; give the README that holds the table's markers")
    with told() as tell:
        figures = run(executors=executor or [], progress=tell)
    keep(figures, out, table, json)
    if readme is not None:
        write_into(readme, figures)
    if faults := beyond_bounds(figures):
        for fault in faults:
            print_line(fault)
        raise typer.Exit(FAULTS)


ORDER_EXAMPLE = "viewmill bench order --out order.json"


@app.command(epilog=f"Example: {ORDER_EXAMPLE}")
def order(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-order.json"
    ),
    repeats: Annotated[int, typer.Option(min=1, help="Processes per order; the figures are medians.")] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Make orders of a billion samples and their first batch; tell how well blocks and windows shuffle."""
    from viewmill.tools.bench.order import run, table

    check_folder(out)
    with told() as tell:
        figures = run(repeats=repeats, progress=tell)
    keep(figures, out, table, json)


DRAWS_EXAMPLE = "viewmill bench draws --draws 200000 --out draws.json"


@app.command(epilog=f"Example: {DRAWS_EXAMPLE}")
def draws(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-draws.json"
    ),
    draws: Annotated[int, typer.Option(min=100, help="Of each parameter, on either side.")] = 200_000,
    seed: Annotated[int, typer.Option(min=0, help="Of both sides.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Test the distribution of every drawn parameter against torchvision's own: 10 minutes at the default.

    Exit code 3 where a test fails. It needs scipy, which scikit-learn brings.
    """
    from viewmill.tools.bench.draws import run, table

    check_folder(out)
    with told() as tell:
        figures = run(draws, seed=seed, progress=tell)
    keep(figures, out, table, json)
    if not figures["passed"]:
        raise typer.Exit(FAULTS)


CONVERT_EXAMPLE = "viewmill bench convert --source photographs/train --out convert.json"


@app.command(epilog=f"Example: {CONVERT_EXAMPLE}")
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
