"""The comparison in words: cells, headings and the legend, for the terminal and the page alike."""

from collections import Counter

from viewmill.tools.comparison.figures import MARKS, is_share, measure_of, task_of
from viewmill.tools.comparison.published import protocols_described
from viewmill.tools.comparison.side_by_side import Cell, Comparison, Difference, Section
from viewmill.tools.html_page import figure as number_text

NOTHING = "–"
Row = tuple[str, ...]


def cell_text(cell: Cell | None, key: str) -> str:
    """57.1 ± 1.3 †, in percent where it is a share."""
    if cell is None:
        return NOTHING
    value, error = cell.figure.value, cell.figure.error
    if is_share(key):
        text = f"{100 * value:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")
    else:
        text = number_text(value)
    return f"{text} {cell.marks}".rstrip()


def heading(key: str, section: Section) -> str:
    """The task for accuracies, the measure for figures; with the unit."""
    name = task_of(key) if section.title.endswith("accuracy") else measure_of(key)
    return name.replace("_", " ").replace(" deg", ", °") + (", %" if is_share(key) else "")


def section_rows(section: Section) -> list[Row]:
    """A row a subject: its name and its cells."""
    return [
        (subject.name, *(cell_text(cell, key) for cell, key in zip(cells, section.columns, strict=True)))
        for subject, cells in section.rows
    ]


def difference_rows(found: Comparison) -> list[Row]:
    """Run, number, difference, standard errors; then how many numbers are not compared, with their marks."""
    rows: list[Row] = [
        (one.run, one.key.replace("_", " "), *difference_text(one)) for one in found.differences
    ]
    counts = Counter((run, marks) for run, _, marks in found.incomparable)
    apart: list[Row] = [
        (run, f"{count} number{'s' * (count > 1)}", f"not compared {marks}", "")
        for (run, marks), count in counts.items()
    ]
    return rows + apart


def difference_text(one: Difference) -> tuple[str, str]:
    """+2.1 points ± 1.8, and +1.2."""
    if is_share(one.key):
        error = f" ± {100 * one.error:.1f}" if one.error is not None else ""
        text = f"{100 * one.difference:+.1f} points{error}"
    else:
        text = f"{one.difference:+.4g}"
    return text, NOTHING if one.z_score is None else f"{one.z_score:+.1f}"


def legend(found: Comparison) -> list[str]:
    """What marks, errors and protocols mean, as far as they occur; a line each."""
    cells = [
        cell for section in found.sections for _, row in section.rows for cell in row if cell is not None
    ]
    used = "".join(cell.marks for cell in cells) + "".join(marks for _, _, marks in found.incomparable)
    lines = [f"{mark} {text}" for mark, text in MARKS.items() if mark in used]
    if any(cell.figure.error is not None for cell in cells):
        lines.append(
            "±: one standard error over the test images; the run's own spread over seeds is not in it"
        )
    if found.differences:
        lines.append(
            "differences: standard errors as of two sets of images, usually more than over the same images"
        )
    if found.papers_data:
        names = ", ".join(found.papers_data)
        how = (
            f"the test set is taken for {names}, which has as many classes and images"
            if found.taken_by_size
            else f"rows of papers are on {names}"
        )
        lines.append(f"{how}; their numbers are as printed, none was measured here")
    return lines


def protocol_rows(found: Comparison) -> list[Row]:
    """Each protocol that occurs, the columns in which it does, and what is known of a paper's."""
    described = protocols_described()
    where: dict[str, dict[str, None]] = {}
    for section in found.sections:
        for _, cells in section.rows:
            for key, cell in zip(section.columns, cells, strict=True):
                if cell is not None:
                    where.setdefault(cell.figure.conditions.protocol, {})[task_of(key)] = None
    return [(name, ", ".join(tasks), described.get(name, "")) for name, tasks in where.items()]


def source_rows(found: Comparison) -> list[Row]:
    """The papers' tables that occur, and how many of their rows."""
    sources = [subject.source for section in found.sections for subject, _ in section.rows if subject.source]
    return [(source,) for source in dict.fromkeys(sources)]
