"""`viewmill bench results`: what was stored, as a page, as Markdown or as a table."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from viewmill.tools.console import print_json, print_line

if TYPE_CHECKING:
    from viewmill.tools.bench.goals import Goal

EXAMPLE = "viewmill bench results --out results.html"


def results(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="What is below it.", show_default="tools/bench/results"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One HTML file that needs no network.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print all tables as Markdown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print goals and figures as JSON.")] = False,
) -> None:
    """Show stored results: goals met and missed, figures, and the machines that they are of.

    Goals are those of this version, also for results that are older.
    """
    from viewmill.tools.bench import results_page
    from viewmill.tools.bench.stored import HERE, read_stored
    from viewmill.tools.html_page import check_target, megabytes, write_page

    if out is not None:
        check_target(out)
    found = read_stored(folder or HERE)
    if out is not None:
        words = [] if folder is None else [shlex.quote(folder.name)]
        command = " ".join(["viewmill bench results", *words, "--out", shlex.quote(out.name)])
        size = write_page(out, results_page.render(found, command))
    if json:
        print_json([one.result.tree() | {"name": one.name, "goals": _goals(one.goals)} for one in found])
    elif markdown:
        print(results_page.markdown(found), end="")
    elif out is not None:
        print_line(f"{out}: {len(found)} results, {megabytes(size)}; open it in a browser")
    else:
        from rich.console import Console
        from viewmill.tools.tables import new_table

        headings = ("result", "benchmark", "goals met", "missed")
        rows = results_page.summary_rows(found)
        Console().print(new_table("stored results", headings, rows, numbers_from=4))


def _goals(goals: "list[Goal]") -> list[dict[str, object]]:
    from dataclasses import asdict

    return [asdict(goal) | {"met": goal.met} for goal in goals]
