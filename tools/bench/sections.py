"""The figures of any benchmark as tables, whatever their tree looks like."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from viewmill.tools.bench.comparison import BESIDE, SPREADS, label
from viewmill.tools.html_page import figure

Cells = tuple[str, ...]
# What a benchmark repeats of its goals: they are shown with what was found.
ASKED = ("goals", "goal")


@dataclass(frozen=True)
class Section:
    """A table: its title, headings (that of the names is empty) and rows of text."""

    title: str
    headings: Cells
    rows: list[Cells]


def sections(figures: Mapping[str, Any]) -> list[Section]:
    """Single figures first, in one table; then a table for each group of rows with the same columns."""
    figures = {name: value for name, value in figures.items() if name not in ASKED and value is not None}
    single = {name: value for name, value in figures.items() if not _is_group(value)}
    found = (
        [Section("", ("", "value"), [(name, text) for name, text in _cells(single).items()])]
        if single
        else []
    )
    for name, value in figures.items():
        if _is_group(value):
            found += _tables(name, _rows_of(value))
    return [section for section in found if section.rows]


def _is_group(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _rows_of(value: Any) -> dict[str, Any]:
    """{name: row}; of a list the names are what its texts say, with a number where that does not tell."""
    if isinstance(value, dict):
        return value
    names = [label(row) for row in value]
    unique = len(set(names)) == len(names)
    return {
        name if unique else f"{number + 1} {name}".strip(): row
        for number, (name, row) in enumerate(zip(names, value, strict=True))
    }


def _tables(title: str, rows: Mapping[str, Any]) -> Iterator[Section]:
    """Of rows that hold figures one table; groups inside the rows have tables of their own."""
    single = {name: value for name, value in rows.items() if not _is_group(value)}
    if _cells(single):
        yield Section(title, ("", "value"), list(_cells(single).items()))
    grouped = {name: _rows_of(value) for name, value in rows.items() if _is_group(value)}
    if grouped and all(_is_group(value) for row in grouped.values() for value in row.values()):
        # Groups of groups: their names go into one, so that equal columns stand in one table.
        flat = {f"{name} / {inner}": value for name, row in grouped.items() for inner, value in row.items()}
        yield from _tables(title, flat) if flat else ()
    elif _are_alike(list(grouped.values())):
        yield from _matrix(title, grouped)
    else:
        for name, row in grouped.items():
            yield from _tables(f"{title}: {name}", row)


def _matrix(title: str, rows: Mapping[str, dict[str, Any]]) -> Iterator[Section]:
    """Rows with columns in common as one table, and one for each group that they hold."""
    cells = {name: _cells({k: v for k, v in row.items() if not _is_group(v)}) for name, row in rows.items()}
    columns = tuple(dict.fromkeys(column for row in cells.values() for column in row))
    if columns:
        body = [(name, *(row.get(column, "") for column in columns)) for name, row in cells.items()]
        yield Section(title, ("", *columns), body)
    inside = dict.fromkeys(key for row in rows.values() for key, value in row.items() if _is_group(value))
    for key in inside:
        groups = {name: row[key] for name, row in rows.items() if _is_group(row.get(key))}
        yield from _tables(f"{title}: {key}", groups)


def _are_alike(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all have a name in common; settings and peers of one part have none."""
    return len(rows) > 0 and bool(set(rows[0]).intersection(*rows[1:]))


def _cells(values: Mapping[str, Any]) -> dict[str, str]:
    """Texts by name; what says how far repeats lie apart stands in brackets behind its figure."""
    found = {}
    for name, value in values.items():
        if name in ASKED or (name.endswith(BESIDE) and name.removesuffix(_ending(name)) in values):
            continue
        beside = next((values[name + ending] for ending in SPREADS if name + ending in values), None)
        worst = values.get(f"{name}_worst")
        text = text_of(value)
        if beside is not None and beside[0] != beside[1]:
            text += f" ({text_of(beside[0])} to {text_of(beside[1])})"
        found[name] = text + (f" (at worst {text_of(worst)})" if worst is not None else "")
    return found


def _ending(name: str) -> str:
    return next(ending for ending in BESIDE if name.endswith(ending))


def text_of(value: Any) -> str:
    """A figure, a list of them, or whatever it is, as text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return figure(value)
    if isinstance(value, list):
        return ", ".join(text_of(item) for item in value)
    return str(value)
