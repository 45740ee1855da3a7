"""Reads a run folder for the report. Everything in it is untrusted: text stays text, numbers are checked."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viewmill.engine.stragglers import COLUMNS, straggler_table
from viewmill.engine.telemetry import read_lines

MAX_POINTS = 1500  # of a curve: more are not seen, and make the file large
MAX_EVENTS = 200  # the last ones
MAX_PNG_BYTES = 32_000_000
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
EVALUATIONS = ("", "segmentation")  # folders of evaluation/ that have a summary.json
COORDINATES = ("step", "epoch", "samples", "time_s")


@dataclass(frozen=True)
class Run:
    """What a run folder holds; parts that are not there are empty.

    config: the text of config.yaml. metrics: lines of finite numbers or None. evaluation: the entries of
    evaluation/summary.json, then those of a segmentation. checkpoints: name and bytes. requeued: it was
    stopped by a signal. data_set_hash: of the data it trains on, as its newest checkpoint says. stragglers:
    see `straggler_table`; empty of one rank. sheet: the PNG of a segmentation.
    """

    path: Path
    config: str
    environment: dict[str, Any]
    metrics: list[dict[str, float | None]]
    events: list[dict[str, Any]]
    evaluation: list[dict[str, Any]]
    checkpoints: list[dict[str, Any]]
    requeued: bool
    data_set_hash: str | None
    stragglers: dict[str, Any]
    sheet: bytes | None

    @property
    def status(self) -> str:
        """How the run stands, by its last event."""
        kinds = [str(event.get("event")) for event in self.events]
        if self.requeued:
            return "stopped by a signal, to be resumed"
        if kinds and kinds[-1] == "end":
            return "finished"
        return "not finished"

    def curve(self, name: str) -> list[tuple[float, float | None]]:
        """(step, value) of one number, thinned to MAX_POINTS."""
        points = [(step, line.get(name)) for line in self.metrics if (step := line.get("step")) is not None]
        stride = max(1, math.ceil(len(points) / MAX_POINTS))
        thinned = points[::stride]
        return thinned if not points or thinned[-1] == points[-1] else [*thinned, points[-1]]

    def names(self) -> list[str]:
        """The numbers that were logged, in the order of their first appearance."""
        seen = dict.fromkeys(name for line in self.metrics for name in line)
        return [name for name in seen if name not in COORDINATES]

    def last(self, name: str) -> float | None:
        """The last value of a number."""
        return self.metrics[-1].get(name) if self.metrics else None

    def median(self, name: str) -> float | None:
        """The median of a number over the run, which the slow first steps do not move."""
        values = [value for line in self.metrics if (value := line.get(name)) is not None]
        return statistics.median(values) if values else None


def read_run(path: Path) -> Run:
    """All of a run folder that the report shows.

    Raises:
        FileNotFoundError: no such folder, or it is no run's.
        RuntimeError: a file of it cannot be read; names the file.
    """
    if not (path / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{path}: no run here (config.yaml is missing); give the folder that viewmill train wrote"
        )
    return Run(
        path=path,
        config=(path / "config.yaml").read_text(encoding="utf-8", errors="replace"),
        environment=read_json(path / "environment.json", dict),
        metrics=[finite_numbers(line) for line in read_json_lines(path / "metrics.jsonl")],
        events=read_json_lines(path / "events.jsonl")[-MAX_EVENTS:],
        evaluation=[
            entry
            for folder in EVALUATIONS
            for entry in read_entries(path / "evaluation" / folder / "summary.json")
        ],
        checkpoints=checkpoints_of(path / "checkpoints"),
        requeued=(path / "requeue.json").is_file(),
        data_set_hash=trained_on(path / "checkpoints"),
        stragglers=stragglers_of(read_json_lines(path / "ranks.jsonl")),
        sheet=read_png(path / "evaluation" / "segmentation" / "sheet.png"),
    )


def read_json(path: Path, kind: type) -> Any:
    """The JSON of a file, of this kind; empty where the file is not there.

    Raises:
        RuntimeError: it is not JSON, or of another kind.
    """
    if not path.is_file():
        return kind()
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RuntimeError(f"{path}: not JSON ({error}); remove the file to report without it") from error
    if not isinstance(tree, kind):
        raise RuntimeError(f"{path}: expected a JSON {kind.__name__}; remove the file to report without it")
    return tree


def read_entries(path: Path) -> list[dict[str, Any]]:
    """The entries of a summary.json; none before an evaluation.

    Raises:
        RuntimeError: it is no JSON list of objects.
    """
    entries = read_json(path, list)
    if not all(isinstance(entry, dict) for entry in entries):
        raise RuntimeError(f"{path}: an entry is no JSON object; run viewmill evaluate again")
    return list(entries)


def read_png(path: Path) -> bytes | None:
    """The bytes of a PNG; None where there is none.

    Raises:
        RuntimeError: it is no PNG, or larger than a page should be.
    """
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(MAX_PNG_BYTES + 1)
    if not data.startswith(PNG_SIGNATURE) or len(data) > MAX_PNG_BYTES:
        limit = MAX_PNG_BYTES // 10**6
        raise RuntimeError(f"{path}: no PNG of at most {limit} MB; remove the file to report without it")
    return data


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file.

    Raises:
        RuntimeError: a line is not a JSON object.
    """
    try:
        lines = read_lines(path)
    except (ValueError, RecursionError) as error:
        raise RuntimeError(f"{path}: a line is not JSON ({error}); remove it to report without it") from error
    if not all(isinstance(line, dict) for line in lines):
        raise RuntimeError(f"{path}: a line is no JSON object; remove it to report without it")
    return lines


def finite_numbers(line: dict[str, Any]) -> dict[str, float | None]:
    """The numbers of a line; None for what is missing, not finite or no number."""
    return {str(name): number(value) for name, value in line.items()}


def stragglers_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The table of the lines that are whole; empty where there is but one rank."""

    def is_whole(line: dict[str, Any]) -> bool:
        columns = [line.get(name) for name in COLUMNS]
        lists = [column for column in columns if isinstance(column, list)]
        are_numbers = all(number(value) is not None for column in lists for value in column)
        is_even = len(lists) == len(COLUMNS) and len({len(column) for column in lists}) == 1
        return is_even and are_numbers and len(lists[0]) > 0 and number(line.get("step")) is not None

    table = straggler_table([line for line in lines if is_whole(line)])
    return table if table and len(table["ranks"]) > 1 else {}


def number(value: Any) -> float | None:
    """The value as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def checkpoints_of(folder: Path) -> list[dict[str, Any]]:
    """Name and size of each checkpoint folder, oldest first."""
    found = sorted(entry for entry in folder.glob("step_*") if entry.is_dir())
    return [
        {"name": entry.name, "bytes": sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())}
        for entry in found
    ]


def trained_on(folder: Path) -> str | None:
    """The data set hash in the newest checkpoint's data position; None where there is none."""
    manifests = sorted(folder.glob("*/MANIFEST.json"))
    tree = read_json(manifests[-1], dict) if manifests else {}
    for name in ("state", "loader"):
        inner = tree.get(name)
        tree = inner if isinstance(inner, dict) else {}
    found = tree.get("data_set_hash")
    return found if isinstance(found, str) else None
