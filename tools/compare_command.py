"""`viewmill compare`: runs side by side, with each other and with what papers print."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from viewmill.tools.console import print_json, print_line

if TYPE_CHECKING:
    from viewmill.tools.comparison.evaluated import Evaluated

EXAMPLE = "viewmill compare RUN OTHER --paper --html compare.html"


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders of runs, or those that evaluate --out was given."),
    ],
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Rows of the papers too, on the data set of the runs' test images."),
    ] = False,
    paper_data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Rows of the papers on this data set, such as ImageNet-1k, or all."
        ),
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="A page that needs no network.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print all numbers and conditions as JSON.")] = False,
) -> None:
    """Put the evaluations of runs side by side: numbers, standard errors, differences, settings.

    A number by another protocol than the first of its column, on other test images or learnt from other
    training images, is marked, and no difference is taken. Runs that were not evaluated are listed.
    """
    from viewmill.tools.comparison.side_by_side import compare, tree_of
    from viewmill.tools.html_page import check_target, write_page

    if html is not None:
        check_target(html)
    found = compare(read_all(runs), with_papers=paper, papers_data=paper_data)
    if html is not None:
        from viewmill.tools.comparison.page import render

        words = " ".join(str(run) for run in runs)
        write_page(html, render(found, f"viewmill compare {words}"))
    if json:
        print_json(tree_of(found))
        return
    from rich.console import Console
    from viewmill.tools.comparison.terminal import print_comparison

    if len(found.not_evaluated) < len(found.runs):
        print_comparison(found, Console())
    for run in found.not_evaluated:
        print_line(
            f"{run.trained.name}: not evaluated yet; run: viewmill evaluate {run.path} --train DATASET "
            "--on TEST"
        )
    if html is not None:
        print_line(f"page: {html}")


def read_all(paths: list[Path]) -> "list[Evaluated]":
    """The runs in their order, each by the shortest end of its path that tells it from the others.

    Raises:
        ValueError: a folder is given twice.
        FileNotFoundError, RuntimeError: see `read_evaluated`.
    """
    from viewmill.tools.comparison.evaluated import read_evaluated

    whole = [path.absolute() for path in paths]
    for path, given in zip(whole, paths, strict=True):
        if whole.count(path) > 1:
            raise ValueError(f"{given}: is given twice")
    longest = max(len(path.parts) for path in whole)
    ends = [["/".join(path.parts[-count:]) for path in whole] for count in range(1, longest + 1)]
    names = next(one for one in ends if len(set(one)) == len(one))
    return [read_evaluated(path, name) for path, name in zip(paths, names, strict=True)]
