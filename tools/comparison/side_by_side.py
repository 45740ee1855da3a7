"""Puts runs, their untrained backbones and papers' rows into columns, with marks where conditions differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from viewmill.tools.comparison.evaluated import Evaluated
from viewmill.tools.comparison.figures import Figure, Subject, measure_of, task_of
from viewmill.tools.comparison.published import data_named, paper_sets, protocols_described, published

FALLBACK_DATA = "ImageNet-1k"  # whose rows are shown where no test set is a paper's
# Under which name a paper has a task's number: it does not name k, `wordnet` is a part of `semantics`, and
# the papers' linear classifiers learn from crops.
ALIASES = {"knn": "knn", "wordnet": "semantics", "crops": "linear"}


@dataclass(frozen=True)
class Cell:
    """A number in a column, with marks where its conditions are not those of the column's first."""

    figure: Figure
    marks: str


@dataclass(frozen=True)
class Section:
    """Columns that belong together, and a row a subject."""

    title: str
    columns: list[str]  # "task.measure"
    rows: list[tuple[Subject, list[Cell | None]]]


@dataclass(frozen=True)
class Difference:
    """A run's number less the first run's, of numbers that may be compared."""

    run: str
    key: str
    difference: float
    error: float | None  # as if the two were over different images: at most, where they are over the same

    @property
    def z_score(self) -> float | None:
        """How many standard errors it is."""
        return self.difference / self.error if self.error else None


@dataclass(frozen=True)
class Comparison:
    """All that is shown."""

    runs: list[Evaluated]
    sections: list[Section]
    differences: list[Difference]
    incomparable: list[tuple[str, str, str]]  # run, key and the marks for which there is no difference
    settings: list[tuple[str, list[str]]]  # a row for each that differs between the runs; "-": not there
    papers_data: list[str]  # data sets of the papers' rows; empty: no papers
    taken_by_size: bool  # they are those of the runs' test sets, by their size

    @property
    def not_evaluated(self) -> list[Evaluated]:
        return [run for run in self.runs if not run.is_evaluated]


def compare(
    runs: Sequence[Evaluated], *, with_papers: bool = False, papers_data: str | None = None
) -> Comparison:
    """The comparison of these runs, in their order.

    Args:
        with_papers: rows of papers on the runs' test sets too; where none is a paper's, on ImageNet-1k.
        papers_data: rows on this data set of the papers instead, "all": on every.

    Raises:
        ValueError: no such data set.
    """
    evaluated = [run for run in runs if run.is_evaluated]
    data, by_size = _papers_data(evaluated, with_papers, papers_data)
    subjects = [subject for run in evaluated for subject in (run.trained, run.untrained)]
    columns = list(dict.fromkeys(key for run in evaluated for key in run.trained.figures))
    subjects += [one.subject for one in published(data) if _has_any(one.subject, columns)]
    heads = {key: _head(evaluated, key) for key in columns}
    sections = [
        Section(title, keys, [(subject, _cells(subject, keys, heads)) for subject in shown])
        for title, keys in grouped(columns).items()
        if (shown := [subject for subject in subjects if _has_any(subject, keys)])
    ]
    differences, incomparable = differences_of(evaluated)
    return Comparison(
        list(runs), sections, differences, incomparable, different_settings(runs), data, by_size
    )


def grouped(columns: Sequence[str]) -> dict[str, list[str]]:
    """Accuracies of all tasks in two sections, top-1 and top-5; figures in one for each task."""
    found: dict[str, list[str]] = {}
    for key in columns:
        kind = {"top1": "top-1 accuracy", "top5": "top-5 accuracy"}.get(measure_of(key), task_of(key))
        found.setdefault(kind, []).append(key)
    order = ("top-1 accuracy", "top-5 accuracy")
    return {title: found[title] for title in sorted(found, key=lambda title: title not in order)}


def figure_at(subject: Subject, key: str) -> Figure | None:
    """A subject's number for a column; a paper's under the name that it has there."""
    found = subject.figures.get(key)
    if found is None and subject.kind == "paper":
        other = ALIASES.get(task_of(key).partition("@")[0])
        return subject.figures.get(f"{other}.{measure_of(key)}")
    return found


def differences_of(runs: Sequence[Evaluated]) -> tuple[list[Difference], list[tuple[str, str, str]]]:
    """Each run less the first, where protocol, test images and training images are the same; and the rest."""
    found, apart = [], []
    for run in runs[1:]:
        for key, first in runs[0].trained.figures.items():
            figure = run.trained.figures.get(key)
            if figure is None:
                continue
            marks = figure.conditions.marks_against(first.conditions)
            if marks:
                apart.append((run.trained.name, key, marks))
            else:
                error = _independent(figure, first)
                found.append(Difference(run.trained.name, key, figure.value - first.value, error))
    return found, apart


def different_settings(runs: Sequence[Evaluated]) -> list[tuple[str, list[str]]]:
    """Settings that differ between the runs that have any of their kind; with one run all of them.

    A folder without config.yaml has none of a run's, one without an evaluation none of how it was evaluated.
    """
    names = dict.fromkeys(name for run in runs for name in run.settings)
    rows = []
    for name in names:
        able = [run for run in runs if run.has_settings(name)]
        if len(runs) == 1 or len({run.settings.get(name) for run in able}) > 1:
            rows.append((name, [run.settings.get(name, "-") for run in runs]))
    return rows


def tree_of(found: Comparison) -> dict[str, Any]:
    """JSON-able: all numbers with their conditions and marks."""
    described = protocols_described()
    used = dict.fromkeys(
        cell.figure.conditions.protocol
        for section in found.sections
        for _, cells in section.rows
        for cell in cells
        if cell is not None
    )
    return {
        "runs": [
            {"name": run.trained.name, "path": str(run.path), "evaluated": run.is_evaluated}
            for run in found.runs
        ],
        "sections": [_section_tree(section) for section in found.sections],
        "differences": [
            {**vars(one), "first": found.sections[0].rows[0][0].name, "z_score": one.z_score}
            for one in found.differences
        ],
        "not_compared": [dict(zip(("run", "key", "marks"), one, strict=True)) for one in found.incomparable],
        "settings": {name: dict(zip(_names(found), values, strict=True)) for name, values in found.settings},
        "protocols": {name: described.get(name) for name in used},
        "papers": found.papers_data,
    }


def _names(found: Comparison) -> list[str]:
    return [run.trained.name for run in found.runs]


def _section_tree(section: Section) -> dict[str, Any]:
    rows = []
    for subject, cells in section.rows:
        values = {
            key: {
                "value": cell.figure.value,
                "standard_error": cell.figure.error,
                "marks": cell.marks,
                "protocol": cell.figure.conditions.protocol,
                "test": cell.figure.conditions.test,
                "train": cell.figure.conditions.train,
            }
            for key, cell in zip(section.columns, cells, strict=True)
            if cell is not None
        }
        rows.append({"name": subject.name, "kind": subject.kind, "source": subject.source, "values": values})
    return {"title": section.title, "columns": section.columns, "rows": rows}


def _papers_data(runs: Sequence[Evaluated], with_papers: bool, wanted: str | None) -> tuple[list[str], bool]:
    """Data sets whose rows are shown, and whether the runs' test sets are taken for them."""
    if wanted == "all":
        return list(paper_sets()), False
    if wanted is not None:
        if wanted not in paper_sets():
            raise ValueError(
                f"--paper-data {wanted}: no such data set; one of {', '.join(paper_sets())}, all"
            )
        return [wanted], False
    if not with_papers:
        return [], False
    named = data_named({size for run in runs for size in run.test_sizes})
    return (named, True) if named else ([FALLBACK_DATA], False)


def _head(runs: Sequence[Evaluated], key: str) -> Figure:
    """The number that a column's others are held against."""
    return next(run.trained.figures[key] for run in runs if key in run.trained.figures)


def _has_any(subject: Subject, keys: Sequence[str]) -> bool:
    return any(figure_at(subject, key) is not None for key in keys)


def _cells(subject: Subject, keys: Sequence[str], heads: dict[str, Figure]) -> list[Cell | None]:
    found: list[Cell | None] = []
    for key in keys:
        figure = figure_at(subject, key)
        against = heads[key].conditions
        found.append(None if figure is None else Cell(figure, figure.conditions.marks_against(against)))
    return found


def _independent(figure: Figure, other: Figure) -> float | None:
    if figure.error is None or other.error is None:
        return None
    return math.hypot(figure.error, other.error)
