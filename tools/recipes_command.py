"""`viewmill recipes`: the recipes that come along, and the rows of the papers' tables that they make."""

from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer
from viewmill.tools.console import new_app, print_json, print_line

if TYPE_CHECKING:
    from viewmill.engine.catalogue import Row

app = new_app("List recipes and the rows of the papers' tables.", example="viewmill recipes --paper imsvd")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback(invoke_without_command=True, no_args_is_help=False)
def command(
    context: typer.Context,
    paper: Annotated[
        str | None, typer.Option(metavar="PAPER", help="Rows of this paper alone, such as hydes.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(metavar="TABLE", help="Rows of this table alone, such as 'Table I'.")
    ] = None,
    json: Json = False,
) -> None:
    """List what viewmill train takes by name: recipes, and rows of the papers' tables.

    Accuracies are those that the paper prints, in percent; none of them was measured here.
    """
    if context.invoked_subcommand is not None:
        return
    from viewmill.engine.recipe_file import shipped_recipes

    rows = rows_like(paper, table)
    recipes = shipped_recipes() if paper is None and table is None else {}
    about = {name: about_recipe(path.read_text(encoding="utf-8")) for name, path in recipes.items()}
    if json:
        print_json({"recipes": about, "rows": [told(row) for row in rows]})
        return
    for name, text in about.items():
        print_line(f"{name:<26} {text.partition('. ')[0].rstrip('.')}")
    print_rows(rows)


@app.command(epilog="Example: viewmill recipes show hydes_stl10_kappa_10")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe, or a row of a paper's table.")],
    json: Json = False,
) -> None:
    """Show a row's source, commands and the paper's figures, or what a recipe says of itself."""
    from viewmill.engine.catalogue import catalogue
    from viewmill.engine.config import resolve_recipe
    from viewmill.engine.recipe_file import shipped_recipes

    row = catalogue().get(name)
    if row is not None:
        found = told(row)
    elif name in shipped_recipes():
        found = {"name": name, "about": about_recipe(shipped_recipes()[name].read_text(encoding="utf-8"))}
    else:
        resolve_recipe(name)  # says what there is
        raise ValueError(f"{name}: a file, not a name; see it with: viewmill config show {name}")
    if json:
        print_json(found)
        return
    for key, value in found.items():
        print_line(f"{key:<16} {plain(value)}")


def rows_like(paper: str | None, table: str | None) -> "list[Row]":
    """The rows of a paper and of a table, None: any; a table's name in any case.

    Raises:
        ValueError: there are none; lists the names.
    """
    from viewmill.engine.catalogue import catalogue

    rows = list(catalogue().values())
    for name, wanted, of_row in (
        ("paper", paper, [row.paper for row in rows]),
        ("table", table, [row.table for row in rows]),
    ):
        known = {one.lower() for one in of_row}
        if wanted is not None and wanted.lower() not in known:
            raise ValueError(
                f"--{name} {wanted}: no such {name}; there are {', '.join(dict.fromkeys(of_row))}"
            )
    found = [
        row
        for row in rows
        if (paper is None or row.paper == paper.lower())
        and (table is None or row.table.lower() == table.lower())
    ]
    if not found:
        tables = ", ".join(dict.fromkeys(row.table for row in rows if row.paper == str(paper).lower()))
        raise ValueError(f"--table {table}: {paper} has no such table; it has {tables}")
    return found


def told(row: "Row") -> dict[str, Any]:
    """All that the catalogue knows of a row; accuracies in percent, of the paper."""
    from viewmill.engine.config import load_config

    config = load_config(row.recipe, list(row.overrides))
    return {
        "name": row.name,
        "source": row.source,
        "paper": row.paper,
        "table": row.table,
        "row": row.row,
        "paper_results": dict(row.results),
        "data": row.data,
        "recipe": row.recipe,
        "overrides": list(row.overrides),
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "command": row.command,
        "the_same_as": row.long_command,
        "then": row.evaluate_command,
        "note": row.note,
    }


def plain(value: Any) -> str:
    """A value of `told` on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {figure}" for name, figure in value.items()) or "none"
    if isinstance(value, list):
        return "  ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def about_recipe(text: str) -> str:
    """The first paragraph of a recipe's head comment."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#")]
    return " ".join(takewhile(bool, lines))


def print_rows(rows: "list[Row]") -> None:
    """A line for each row, below a line for each table."""
    shown = ""
    for row in rows:
        if (heading := f"{row.title}, {row.table} ({row.paper})") != shown:
            print_line(f"\n{heading}")
            shown = heading
        print_line(
            f"  {row.name:<26} {row.row:<48} {plain(dict(row.results)) if row.results else ''}".rstrip()
        )
