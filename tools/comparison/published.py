"""What papers print, as rows of a comparison: numbers with paper, table, data set and protocol."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from viewmill.engine.strict import StrictModel
from viewmill.tools.comparison.figures import Conditions, Figure, Subject, task_of

PERCENT = 100.0


class PaperSet(StrictModel):
    """By what a data set is taken for that of a paper."""

    classes: int
    images: int


class Table(StrictModel):
    """Rows of one printed table that share a data set."""

    table: str
    data: str
    protocol: dict[str, str]  # by task without its number
    rivals: dict[str, str] = Field(
        default={}
    )  # likewise, of the rows that are not named after the paper's own method
    columns: list[str]  # "task.measure"
    unit: Literal["percent", "plain"]
    rows: dict[str, list[float | None]]

    @model_validator(mode="after")
    def rows_are_as_wide_as_the_columns(self) -> "Table":
        for name, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(f"row {name!r} has {len(values)} numbers for {len(self.columns)} columns")
        for key in self.columns:
            if kind_of(key) not in self.protocol:
                raise ValueError(f"column {key!r} has no protocol")
        return self


class Paper(StrictModel):
    """One file of papers/."""

    title: str
    short: str  # stands behind each row's name
    protocols: dict[str, str]  # what is known of each
    same_as: dict[str, str] = Field(
        default={}
    )  # of those that a task here follows: the id that it has in an evaluation
    tables: list[Table]

    @model_validator(mode="after")
    def protocols_are_described(self) -> "Paper":
        for table in self.tables:
            self._check_described(table.table, (*table.protocol.values(), *table.rivals.values()))
        self._check_described("same_as", self.same_as)
        return self

    def _check_described(self, place: str, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.protocols:
                raise ValueError(f"{place}: protocol {name!r} is not described")


@dataclass(frozen=True)
class Published:
    """A row of a paper's table."""

    subject: Subject
    paper: str  # its file's name
    table: str
    row: str
    data: str


def kind_of(key: str) -> str:
    """knn of knn@20.top1."""
    return task_of(key).partition("@")[0]


@cache
def papers() -> dict[str, Paper]:
    """All papers by their file's name.

    Raises:
        ValueError: a file is wrong; names it and the place.
    """
    return {
        path.stem: read_paper(path) for path in sorted(_folder().glob("*.yaml")) if path.stem != "data_sets"
    }


def read_paper(path: Path) -> Paper:
    """One file. Raises ValueError: it is no such table; names the file and the place."""
    try:
        return Paper.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@cache
def paper_sets() -> dict[str, PaperSet | None]:
    """The papers' data sets by name; None: the paper does not say which images it tests on."""
    tree: dict[str, Any] = yaml.safe_load((_folder() / "data_sets.yaml").read_text(encoding="utf-8"))
    return {name: None if one is None else PaperSet.model_validate(one) for name, one in tree.items()}


def data_named(sizes: set[tuple[int, int]]) -> list[str]:
    """The papers' data sets with as many classes and test images as one of these (classes, images)."""
    return [
        name for name, one in paper_sets().items() if one is not None and (one.classes, one.images) in sizes
    ]


def published(data: list[str]) -> list[Published]:
    """The rows on these data sets, in the order of the papers; one for each row of each table.

    Each is named after its paper, and after its data set too where there are several.
    """
    found = []
    for stem, paper in papers().items():
        for table in paper.tables:
            if table.data in data:
                source = f"{paper.title}, {table.table}, {table.data}"
                of = paper.short if len(data) == 1 else f"{paper.short}, {table.data}"
                found += [
                    Published(
                        Subject(f"{row} ({of})", "paper", _figures(paper, table, row), source),
                        stem,
                        table.table,
                        row,
                        table.data,
                    )
                    for row in table.rows
                ]
    return found


def protocols_described() -> dict[str, str]:
    """What is known of the papers' protocols."""
    return {name: text for paper in papers().values() for name, text in paper.protocols.items()}


def _figures(paper: Paper, table: Table, row: str) -> dict[str, Figure]:
    protocols = table.protocol if row.startswith(paper.short) else table.protocol | table.rivals
    scale = PERCENT if table.unit == "percent" else 1.0
    known = paper_sets().get(table.data)
    size = None if known is None else (known.classes, known.images)

    def conditions(key: str) -> Conditions:
        name = protocols[kind_of(key)]
        return Conditions(name, table.data, None, size, True, paper.same_as.get(name))

    return {
        key: Figure(value / scale, conditions(key))
        for key, value in zip(table.columns, table.rows[row], strict=True)
        if value is not None
    }


def _folder() -> Path:
    return Path(str(resources.files("viewmill.tools.comparison.papers")))
