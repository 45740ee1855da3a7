"""The comparison as tables of the terminal."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from viewmill.tools.comparison.side_by_side import Comparison, Section
from viewmill.tools.comparison.texts import (
    difference_rows,
    heading,
    legend,
    protocol_rows,
    section_rows,
    source_rows,
)
from viewmill.tools.tables import new_table

COLUMNS = 6  # of numbers side by side; more are put below each other
SETTING_WIDTH = 48  # characters of a setting's value


def print_comparison(found: Comparison, console: Console) -> None:
    """All tables, and below them what the marks mean."""
    for section in found.sections:
        for table in section_tables(section):
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


def section_tables(section: Section) -> Iterator[Table]:
    """A table for each few columns."""
    rows = section_rows(section)
    for start in range(0, len(section.columns), COLUMNS):
        keys = section.columns[start : start + COLUMNS]
        names = ("", *(heading(key, section) for key in keys))
        cells = [(row[0], *row[1 + start : 1 + start + COLUMNS]) for row in rows]
        filled = [row for row in cells if any(cell != "–" for cell in row[1:])]
        yield new_table(section.title, names, filled)


def _cut(value: str) -> str:
    return value if len(value) <= SETTING_WIDTH else f"{value[: SETTING_WIDTH - 1]}…"
