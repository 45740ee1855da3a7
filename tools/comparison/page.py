"""The comparison as one HTML page that needs no network."""

from typing import Any

from viewmill.tools.comparison.figures import is_share
from viewmill.tools.comparison.side_by_side import Cell, Comparison, Section
from viewmill.tools.comparison.texts import (
    cell_text,
    difference_rows,
    heading,
    legend,
    protocol_rows,
    source_rows,
)
from viewmill.tools.html_page import environment, shown

TEMPLATE = "comparison/page.html.j2"


def render(found: Comparison, command: str) -> str:
    """The page; names and texts of runs are escaped."""
    evaluated = [run for run in found.runs if run.is_evaluated]
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            names=[shown(run.trained.name) for run in found.runs],
            first=shown(evaluated[0].trained.name) if evaluated else "",
            sections=[section_tree(section) for section in found.sections],
            differences=difference_rows(found),
            settings=[(shown(name), [shown(value) for value in values]) for name, values in found.settings],
            not_evaluated=[shown(run.trained.name) for run in found.not_evaluated],
            protocols=protocol_rows(found),
            legend=legend(found),
            sources=[source for (source,) in source_rows(found)],
            command=shown(command, 2000),
        )
    )


def section_tree(section: Section) -> dict[str, Any]:
    """Headings, and rows of cells with their text, their marks and the length of their bar."""
    rows = [
        {
            "name": shown(subject.name),
            "kind": subject.kind,
            "source": subject.source,
            "cells": [_cell_tree(cell, key) for cell, key in zip(cells, section.columns, strict=True)],
        }
        for subject, cells in section.rows
    ]
    return {
        "title": section.title.replace("_", " "),
        "headings": [heading(key, section) for key in section.columns],
        "rows": rows,
    }


def _cell_tree(cell: Cell | None, key: str) -> dict[str, Any]:
    """`bar` is a share of 1, of an accuracy."""
    if cell is None:
        return {"text": "–", "bar": None, "marks": "", "hint": ""}
    conditions = cell.figure.conditions
    text = cell_text(cell, key).removesuffix(cell.marks).rstrip()
    hint = f"{conditions.protocol}; test images {shown(conditions.test, 24)}"
    share = min(max(cell.figure.value, 0.0), 1.0) if is_share(key) else None
    return {"text": text, "bar": share, "marks": cell.marks, "hint": hint}
