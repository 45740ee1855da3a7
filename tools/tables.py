"""Tables for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text


def new_table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, numbers_from: int = 1
) -> Table:
    """A plain table; columns from `numbers_from` on are flush right."""
    table = Table(title=Text(title), box=box.SIMPLE, title_justify="left", show_header=any(columns))
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number >= numbers_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
