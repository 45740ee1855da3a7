"""The results that a folder holds: one file each, and runs that were evaluated."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewmill.tools.bench.goals import Goal, goals_of
from viewmill.tools.bench.result import Result, read_result, read_tree

HERE = Path(__file__).parent / "results"
EVALUATION = "evaluation"
_SUMMARY, _ENVIRONMENT = "summary.json", "environment.json"


@dataclass(frozen=True)
class Stored:
    """name: of the file below the folder, without its ending; notes: on the conditions, beside it."""

    name: str
    result: Result
    notes: Path | None

    @property
    def goals(self) -> list[Goal]:
        return goals_of(self.result.bench, self.result.figures, self.result.settings)


def read_stored(folder: Path) -> list[Stored]:
    """All results below a folder, by name.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        ValueError: a JSON file that is no result; the message names it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; give the one that results were stored in (an installed package "
            "carries none: they are in the repository, tools/bench/results)"
        )
    found = []
    for path in sorted(folder.rglob("*.json")):
        if (path.parent / _SUMMARY).is_file():  # a run's: its other files are details of the summary
            if path.name == _SUMMARY:
                found.append(_stored(folder, path.parent, _evaluation(path.parent)))
            continue
        found.append(_stored(folder, path.with_suffix(""), read_result(path)))
    if not found:
        raise FileNotFoundError(
            f"{folder}: no result in it; viewmill bench NAME --out {folder}/NAME.json makes one"
        )
    return found


def _stored(folder: Path, path: Path, result: Result) -> Stored:
    beside = (path if path.is_dir() else path.parent) / "README.md"
    return Stored(str(path.relative_to(folder)), result, beside if beside.is_file() else None)


def _evaluation(folder: Path) -> Result:
    """A run's evaluation/summary.json beside what the run ran on."""
    entries: list[dict[str, Any]] = read_tree(folder / _SUMMARY)
    try:
        tasks = {entry["task"]: {k: v for k, v in entry.items() if k != "task"} for entry in entries}
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{folder / _SUMMARY}: no summary of an evaluation ({error!r}); evaluate the run again"
        ) from None
    return Result(EVALUATION, {}, {"tasks": tasks}, read_tree(folder / _ENVIRONMENT))
