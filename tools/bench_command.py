"""`viewmill bench NAME`: measures a part beside its peers, prints a table and stores the figures."""

import json as json_text
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from viewmill.tools.console import new_app, print_json, print_line

EXAMPLE = "viewmill bench loader --data DATASET --repeats 7 --out loader.json"

app = new_app("Measure a part beside its peers, in one run on the same inputs.", example=EXAMPLE)


@app.callback()
def group() -> None:
    """Makes `bench` a group though it has one command: `viewmill bench loader`."""


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
    executor: Annotated[list[str] | None, typer.Option(help="Ours; may be given several times.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Compare our loader with torchvision, lightly and DALI's own random operators, on the CPU.

    Every peer makes the same views of the same images with as many threads, in turn, so that a busy machine
    slows all of them; ratios are of CPU time an image. The peers need the extra 'baselines'.
    """
    from rich.console import Console
    from viewmill.tools.bench.loader import run, table

    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out}: there is no folder {out.parent}; make it first")
    with told() as tell:
        figures = run(
            data,
            repeats=repeats,
            batch_size=batch_size,
            threads=threads,
            executors=executor or ["dali"],
            view_preset=preset,
            progress=tell,
        )
    out.write_text(json_text.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if json:
        print_json(figures)
    else:
        Console().print(table(figures))
        print_line(f"figures: {out}")


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says what is measured, quiet where stderr is no terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    with console.status("") as status:
        yield status.update
