"""The comparison as tables of the terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from viewmill.tools.comparison.side_by_side import Comparison, Section
from viewmill.tools.comparison.texts import (
    NOTHING,
    difference_rows,
    heading,
    legend,
    protocol_rows,
    section_rows,
    source_rows,
)
from viewmill.tools.tables import new_table

CELL = 15  # characters that a column of numbers takes; those that do not fit are put below the others
SETTING_WIDTH = 48  # characters of a setting's value


def print_comparison(found: Comparison, console: Console) -> None:
    """All tables, and below them what the marks mean."""
    for section in found.sections:
        for table in section_tables(section, console.width):
            console.print(table)
    rows = difference_rows(found)
    if rows:
        first = next(run for run in found.runs if run.is_evaluated).trained.name
        console.print(new_table(f"less {first}", ("run", "number", "difference", "z"), rows, numbers_from=2))
    settings = [(name, *(_cut(value) for value in values)) for name, values in found.settings]
    if settings and len(found.runs) > 1:
        names = tuple(run.trained.name for run in found.runs)
        console.print(new_table("settings that differ", ("setting", *names), settings, numbers_from=99))
    console.print(
        new_table("protocols", ("protocol", "tasks", "of the paper"), protocol_rows(found), numbers_from=99)
    )
    for line in [*legend(found), *(f"source: {source}" for (source,) in source_rows(found))]:
        console.print(line, markup=False, highlight=False)


def section_tables(section: Section, width: int) -> Iterator[Table]:
    """Tables of as many columns as fit into `width` characters beside the names, which are not broken."""
    rows = section_rows(section)
    fitting = max(1, (width - max(len(row[0]) for row in rows)) // CELL)
    for start in range(0, len(section.columns), fitting):
        keys = section.columns[start : start + fitting]
        names = ("", *(heading(key, section) for key in keys))
        cells = [(row[0], *row[1 + start : 1 + start + fitting]) for row in rows]
        filled = [row for row in cells if any(cell != NOTHING for cell in row[1:])]
        table = new_table(section.title, names, filled)
        table.columns[0].no_wrap = True
        yield table


def _cut(value: str) -> str:
    return value if len(value) <= SETTING_WIDTH else f"{value[: SETTING_WIDTH - 1]}…"
