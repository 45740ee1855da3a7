"""Reads what evaluations left in run folders: every number with its conditions. All of it is untrusted."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from viewmill.tools.comparison.figures import UNKNOWN, Conditions, Figure, Subject
from viewmill.tools.run_reader import number, read_entries, read_json

LEARNS_NOTHING = ("geometry", "semantics", "wordnet", "diagnosis")  # tasks of the test images alone
SUMMARY = Path("evaluation") / "summary.json"
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

    @property
    def test_sizes(self) -> set[tuple[int, int]]:
        """Classes and images of the test sets."""
        found = {figure.conditions.size for figure in self.trained.figures.values()}
        return {size for size in found if size is not None}


def read_evaluated(path: Path, name: str) -> Evaluated:
    """A run's folder, or one that `viewmill evaluate --out` was given; without an evaluation it has no
    figures.

    Raises:
        FileNotFoundError: neither.
        RuntimeError: a file of it cannot be read; names the file.
    """
    if not (path / "config.yaml").is_file() and not (path / SUMMARY).is_file():
        raise FileNotFoundError(
            f"{path}: neither a run (no config.yaml) nor an evaluation (no {SUMMARY}); give a folder that "
            "viewmill train wrote, or that viewmill evaluate --out was given"
        )
    entries = read_entries(path / SUMMARY)
    details = read_details(path / "evaluation")
    trained: dict[str, Figure] = {}
    untrained: dict[str, Figure] = {}
    for entry in entries:
        task = str(entry.get("task"))
        known = details.get(task, Details())
        n = number(entry.get("n"))
        size = None if n is None or known.classes is None else (known.classes, int(n))
        train = None if task in LEARNS_NOTHING else known.train
        conditions = Conditions(known.protocol, known.test, train, size)
        for target, side in ((trained, "trained"), (untrained, "untrained")):
            values = entry_values(entry, side)
            target |= {f"{task}.{key}": figure_of(key, value, conditions, n) for key, value in values.items()}
    settings = read_settings(path / "config.yaml")
    for one in details.values():
        settings |= one.about
    subjects = Subject(name, "run", trained), Subject(f"{name}, untrained", "untrained", untrained)
    return Evaluated(path, *subjects, settings)


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
        if path.name == SUMMARY.name:
            continue
        tree = read_json(path, dict)
        tasks = tree.get("tasks")
        for task in tasks if isinstance(tasks, list) else []:
            if isinstance(task, dict) and isinstance(task.get("task"), str):
                found[task["task"]] = details_of(tree, task)
    return found


def details_of(tree: dict[str, Any], task: dict[str, Any]) -> Details:
    """Protocol, data and what was evaluated; UNKNOWN where the file is silent."""
    sets = _mapping(tree, "data_sets")
    classes = tree.get("classes")
    backbone = _mapping(tree, "backbone")
    told = {"source": tree.get("source"), "step": tree.get("step"), **backbone, "views": tree.get("views")}
    return Details(
        protocol=_text(task, "protocol"),
        test=_text(_mapping(sets, "test"), "data_set_hash"),
        train=_text(_mapping(sets, "train"), "data_set_hash"),
        classes=len(classes) if isinstance(classes, list) else None,
        about={f"evaluated.{key}": str(value) for key, value in told.items() if value is not None},
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


def _text(tree: dict[str, Any], key: str) -> str:
    value = tree.get(key)
    return value if isinstance(value, str) else UNKNOWN
