"""`viewmill bench loss METHOD`: a loss and its gradient beside the plain formula, time and memory."""

from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.bench_commands.figures import check_folder, keep, told, with_shared_options
from viewmill.tools.console import new_app

EXAMPLE = "viewmill bench loss hydes --vectors 16384 --dim 256 --out hydes.json"

app = new_app("Compare a loss and its gradient with the plain formula: time and memory.", example=EXAMPLE)


@app.command(epilog=f"Example: {EXAMPLE}")
@with_shared_options
def hydes(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-loss-hydes.json"
    ),
    vectors: Annotated[
        int | None,
        typer.Option(
            min=4, help="N, rows of the kernel: views x images.", show_default="16384; 65536 on a GPU"
        ),
    ] = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="D, of an embedding.", show_default="256; 768 on a GPU")
    ] = None,
    views: Annotated[int, typer.Option(min=2, help="Views of an image.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Processes per peer; the figures are medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, for every peer.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1.")] = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", show_default="float32; bfloat16 on a GPU"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare HyDeS with the plain formula that holds the whole kernel.

    The plain formula takes about 24 bytes for each of the N x N entries in float32: 6 GB at the defaults. On
    a GPU the loss without Triton is measured too. Without that GPU: exit code 2.
    """
    from viewmill.tools.bench.loss_hydes import run, table

    check_folder(out)
    on_gpu = device != "cpu"
    with told() as tell:
        figures = run(
            vectors=vectors or (65536 if on_gpu else 16384),
            dim=dim or (768 if on_gpu else 256),
            views=views,
            repeats=repeats,
            threads=threads,
            device=device,
            dtype=dtype or ("bfloat16" if on_gpu else "float32"),
            progress=tell,
        )
    keep(figures, out, table, json)


IMSVD_EXAMPLE = "viewmill bench loss imsvd --rows 2048 --dim 8160 --out imsvd.json"


@app.command(epilog=f"Example: {IMSVD_EXAMPLE}")
@with_shared_options
def imsvd(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the figures go, as JSON.")] = Path(
        "bench-loss-imsvd.json"
    ),
    rows: Annotated[int, typer.Option(min=1, help="N, images of the global batch.")] = 2048,
    dim: Annotated[int, typer.Option(min=4, help="D, logits of an image: variables x units.")] = 8160,
    units: Annotated[int, typer.Option(min=2, help="Values of a variable.")] = 80,
    repeats: Annotated[int, typer.Option(min=1, help="Processes per peer; the figures are medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Of torch, for every peer.")] = 2,
    ranks: Annotated[
        list[int] | None,
        typer.Option(min=1, help="World size; may be given several times.", show_default="1, 2, 4"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare IMSVD with the plain version that holds the whole joint matrix; count what a rank does.

    Of a rank: multiplications, its share of the matrix and what of it is in memory at once, bytes sent.
    """
    from viewmill.tools.bench.loss_imsvd import run, table

    check_folder(out)
    with told() as tell:
        figures = run(
            rows=rows,
            dim=dim,
            units=units,
            repeats=repeats,
            threads=threads,
            world_sizes=tuple(ranks or (1, 2, 4)),
            progress=tell,
        )
    keep(figures, out, table, json)
