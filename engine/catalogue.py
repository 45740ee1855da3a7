"""The rows of the papers' tables: which recipe and overrides make each, and what the paper reports."""

import shlex
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from viewmill.engine.recipe_file import read_mapping
from viewmill.engine.strict import ConfigError, StrictModel

Measure = Literal[
    "linear_top1", "linear_top5", "knn_top1", "knn_top5", "knn20_top1", "knn200_top1"
]  # percent, as printed; `knn` where the paper names no number of neighbours


class RowEntry(StrictModel):
    """One row as its file has it; what is None is its table's."""

    row: str  # in the paper's words, or in the words of its text
    recipe: str | None = None
    data: str | None = None
    evaluate: str | None = None  # another data set to evaluate on
    # Not strict: YAML gives a list, which a strict tuple refuses.
    set: tuple[str, ...] = Field(default=(), strict=False)  # overrides, behind those of the table
    results: dict[Measure, float] = Field(default={})
    note: str | None = None


class TableEntry(StrictModel):
    """Rows of one table, figure or section, and what they share."""

    table: str
    recipe: str
    data: str
    set: tuple[str, ...] = Field(default=(), strict=False)
    note: str | None = None
    rows: dict[str, RowEntry]


class PaperEntry(StrictModel):
    """One file of recipes/papers."""

    title: str
    linear: str | None = None  # the evaluation's task that trains linear classifiers as this paper's were
    tables: list[TableEntry]


@dataclass(frozen=True)
class Row:
    """One row of a paper's table: `viewmill train NAME` makes it."""

    name: str
    paper: str  # its file's name
    title: str
    table: str
    row: str
    recipe: str
    overrides: tuple[str, ...]
    data: str  # the data set to train on; in commands the place of its path
    evaluate: str | None
    results: dict[Measure, float]  # percent; empty: the text gives none
    note: str | None
    linear: str | None  # the task that trains a linear classifier as the paper does

    @property
    def source(self) -> str:
        """Paper, table and row."""
        return f"{self.title}, {self.table}: {self.row}"

    @property
    def command(self) -> str:
        return f"viewmill train {self.name} --data {self.data} --out RUN"

    @property
    def long_command(self) -> str:
        """The same by recipe and overrides."""
        return _train(self.recipe, self.data, list(self.overrides))

    @property
    def evaluate_command(self) -> str:
        data = self.evaluate or self.data
        tasks = sorted({_task(measure) for measure in self.results} or {"knn", "linear"})
        if self.linear is not None and any(_task(measure) == "linear" for measure in self.results):
            tasks.append(self.linear)
        return f"viewmill evaluate RUN --train {data} --on {data}_TEST --tasks {','.join(tasks)}"


@cache
def catalogue() -> dict[str, Row]:
    """All rows by name, in the order of the files and of the rows in them.

    Raises:
        ConfigError: a file is wrong, or two rows have one name; names both.
    """
    folder = Path(str(resources.files("viewmill.engine.recipes") / "papers"))
    rows: dict[str, Row] = {}
    for file in sorted(folder.glob("*.yaml")):
        for row in rows_of(file):
            if row.name in rows:
                raise ConfigError(f"{file}: the row {row.name} is one of {rows[row.name].paper} too")
            rows[row.name] = row
    return rows


def rows_of(file: Path) -> list[Row]:
    """The rows of one paper.

    Raises:
        ConfigError: the file is no such catalogue; names the key.
    """
    try:
        paper = PaperEntry.model_validate(read_mapping(file))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return [
        Row(
            name=name,
            paper=file.stem,
            title=paper.title,
            table=table.table,
            row=entry.row,
            recipe=entry.recipe or table.recipe,
            overrides=(*table.set, *entry.set),
            data=entry.data or table.data,
            evaluate=entry.evaluate,
            results=entry.results,
            note=" ".join(filter(None, (table.note, entry.note))) or None,
            linear=paper.linear,
        )
        for table in paper.tables
        for name, entry in table.rows.items()
    ]


def _train(recipe: str, data: str, overrides: list[str]) -> str:
    return shlex.join(["viewmill", "train", recipe, "--data", data, "--out", "RUN", *overrides])


def _task(measure: Measure) -> str:
    """knn20_top1 -> knn@20; without a number the evaluation's own."""
    kind = measure.partition("_")[0]
    return "linear" if kind == "linear" else f"knn@{kind[3:]}".removesuffix("@")
