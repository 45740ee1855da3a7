"""`viewmill bench` of the losses."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told

LOSS_EXAMPLE = "viewmill bench loss --vectors 16384 --dim 256 --out loss.json"


def loss(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-loss.json"
    ),
    vectors: Annotated[int, typer.Option(min=4, help="N, the rows of the kernel: views x images.")] = 16384,
    dim: Annotated[int, typer.Option(min=1, help="D, of an embedding.")] = 256,
    views: Annotated[int, typer.Option(min=2, help="Views of an image.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Processes per peer; the figures are medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, for every peer.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare the HyDeS loss with the plain formula that holds the whole kernel: time and memory, on the CPU.

    The plain formula takes about 24 bytes for each of the N x N entries: 6 GB at the defaults.
    """
    from viewmill.tools.bench.loss import run, table

    check_folder(out)
    with told() as tell:
        figures = run(vectors=vectors, dim=dim, views=views, repeats=repeats, threads=threads, progress=tell)
    keep(figures, out, table, json)
