"""Reads what evaluations left in run folders: every number with its conditions. All of it is untrusted."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from viewmill.tools.comparison.figures import UNKNOWN, Conditions, Figure, Subject
from viewmill.tools.run_reader import number, read_entries, read_json

LEARNS_NOTHING = ("geometry", "semantics", "wordnet", "diagnosis")  # tasks of the test images alone
EVALUATED = "evaluated."  # begins the names of what an evaluation says of itself
FOLDER, SUMMARY = "evaluation", "summary.json"
ACCURACIES = {"top1": "", "top5": "_top5"}


@dataclass(frozen=True)
class Details:
    """What the file of a task says beside its figures."""

    protocol: str = UNKNOWN
    test: str = UNKNOWN
    train: str = UNKNOWN
    classes: int | None = None
    about: dict[str, str] = field(default_factory=dict)  # what was evaluated, and how it was fed


@dataclass(frozen=True)
class Evaluated:
    """One folder: the trained backbone and the untrained one beside it, and the run's settings."""

    path: Path
    trained: Subject
    untrained: Subject
    settings: dict[str, str]  # of config.yaml by dotted name, and what was evaluated

    @property
    def is_evaluated(self) -> bool:
        """Whether there is a number to compare."""
        return bool(self.trained.figures)

    def has_settings(self, name: str) -> bool:
        """Whether any setting of this one's kind is known: of the run, or of how it was evaluated."""
        return any(other.startswith(EVALUATED) == name.startswith(EVALUATED) for other in self.settings)

    @property
    def test_sizes(self) -> set[tuple[int, int]]:
        """Classes and images of the test sets."""
        found = {figure.conditions.size for figure in self.trained.figures.values()}
        return {size for size in found if size is not None}


def read_evaluated(path: Path, name: str) -> Evaluated:
    """A run's folder, or one that `viewmill evaluate --out` was given; without evaluation: no figures.

    Raises:
        FileNotFoundError: neither.
        RuntimeError: a file of it cannot be read; names the file.
    """
    folders = evaluations_of(path)
    if not (path / "config.yaml").is_file() and not folders:
        raise FileNotFoundError(
            f"{path}: neither a run (no config.yaml) nor an evaluation (no {FOLDER}/{SUMMARY}); give a "
            "folder that viewmill train wrote, or that viewmill evaluate --out was given"
        )
    settings = read_settings(path / "config.yaml")
    trained: dict[str, Figure] = {}
    untrained: dict[str, Figure] = {}
    for folder in folders:
        details = read_details(folder)
        for entry in read_entries(folder / SUMMARY):
            known = details.get(str(entry.get("task")), Details())
            trained |= figures_of(entry, "trained", known)
            untrained |= figures_of(entry, "untrained", known)
        for one in details.values():
            settings |= one.about
    subjects = Subject(name, "run", trained), Subject(f"{name}, untrained", "untrained", untrained)
    return Evaluated(path, *subjects, settings)


def evaluations_of(path: Path) -> list[Path]:
    """The folders with a summary: evaluation/, and those in it of tasks that have a pass of their own."""
    whole = path / FOLDER
    return [folder for folder in (whole, *sorted(whole.glob("*/"))) if (folder / SUMMARY).is_file()]


def figures_of(entry: dict[str, Any], side: str, known: Details) -> dict[str, Figure]:
    """The numbers of a line of a summary for the trained or the untrained backbone, by "task.measure"."""
    task, n = str(entry.get("task")), number(entry.get("n"))
    size = None if n is None or known.classes is None else (known.classes, int(n))
    train = None if task in LEARNS_NOTHING else known.train
    conditions = Conditions(known.protocol, known.test, train, size)
    values = entry_values(entry, side)
    return {f"{task}.{key}": figure_of(key, value, conditions, n) for key, value in values.items()}


def entry_values(entry: dict[str, Any], side: str) -> dict[str, float]:
    """The numbers of a line of summary.json for the trained or the untrained backbone, by measure."""
    measures = entry.get("measures")
    if isinstance(measures, dict):
        found = {str(key): number(one.get(side)) for key, one in measures.items() if isinstance(one, dict)}
    else:
        found = {key: number(entry.get(f"{side}{ending}")) for key, ending in ACCURACIES.items()}
    return {key: value for key, value in found.items() if value is not None}


def figure_of(key: str, value: float, conditions: Conditions, n: float | None) -> Figure:
    """The number; of an accuracy with its binomial standard error, sqrt(p (1 - p) / n) of n images."""
    is_accuracy = key in ACCURACIES and 0 <= value <= 1 and n is not None and n >= 1
    return Figure(value, conditions, math.sqrt(value * (1 - value) / n) if is_accuracy and n else None)


def read_details(folder: Path) -> dict[str, Details]:
    """By task; tasks without a file of details are missing.

    Raises:
        RuntimeError: a file is not JSON.
    """
    found: dict[str, Details] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name == SUMMARY:
            continue
        tree = read_json(path, dict)
        tasks = tree.get("tasks")
        for task in tasks if isinstance(tasks, list) else []:
            if isinstance(task, dict) and isinstance(task.get("task"), str):
                found[task["task"]] = details_of(tree, task)
    return found


def details_of(tree: dict[str, Any], task: dict[str, Any]) -> Details:
    """Protocol, data and what was evaluated; UNKNOWN where the file is silent."""
    sets, backbone = _mapping(tree, "data_sets"), _mapping(tree, "backbone")
    # A task with a pass of its own has one hash of all its data, and its classes among its settings.
    whole = _text(_mapping(tree, "data"), "data_hash")
    test, train = (_text(_mapping(sets, side), "data_set_hash", whole) for side in ("test", "train"))
    classes = tree.get("classes", task.get("classes"))
    told = {"source": tree.get("source"), "step": tree.get("step"), **backbone, "views": tree.get("views")}
    return Details(
        protocol=_text(task, "protocol"),
        test=test,
        train=train,
        classes=len(classes) if isinstance(classes, list) else None,
        about={f"{EVALUATED}{key}": str(value) for key, value in told.items() if value is not None},
    )


def read_settings(path: Path) -> dict[str, str]:
    """The settings of config.yaml by dotted name; none where it is not there.

    Raises:
        RuntimeError: it is no YAML mapping.
    """
    if not path.is_file():
        return {}
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise RuntimeError(f"{path}: no YAML ({line}); restore the run's config.yaml") from error
    if not isinstance(tree, dict):
        raise RuntimeError(f"{path}: expected a YAML mapping; restore the run's config.yaml")
    return flat(tree)


def flat(tree: dict[Any, Any], prefix: str = "") -> dict[str, str]:
    """{"model": {"stem": "small"}} as {"model.stem": "small"}; lists are one value."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict) and value
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": str(value)}
    return found


def _mapping(tree: dict[str, Any], key: str) -> dict[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _text(tree: dict[str, Any], key: str, otherwise: str = UNKNOWN) -> str:
    value = tree.get(key)
    return value if isinstance(value, str) else otherwise
