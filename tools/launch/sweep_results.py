"""The results of a sweep, read from the folders of its runs."""

import contextlib
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viewmill.engine.faults.record import recorded
from viewmill.engine.telemetry import read_lines, replace_text
from viewmill.tools.launch.sweep import Combination
from viewmill.tools.run_reader import Run, number, read_run

if TYPE_CHECKING:
    from rich.table import Table

EXIT_CODE = "launch/exit_code"  # what the last launch of a run ended with
CAUSE = "launch/cause"  # what kept it from starting
FINISHED, STOPPED, FAILED, OPEN, ABSENT = "finished", "stopped", "failed", "not finished", "not begun"
COLUMNS = ("status", "step", "loss")


def results(folder: Path, runs: Sequence[Combination]) -> list[dict[str, Any]]:
    """One line for each run: {run, settings, status, step, loss, evaluation, exit_code, cause}.

    loss: of the last step that was logged, None where it was not finite. evaluation: top-1 accuracies as
    shares of 1 by task: those of viewmill evaluate, else the last ones that were measured in training.
    cause: of a run that failed, where it is known.
    """
    return [result(folder / run.name, run) for run in runs]


def result(path: Path, combination: Combination) -> dict[str, Any]:
    """The line of one run."""
    line: dict[str, Any] = {"run": combination.name, "settings": combination.settings}
    nothing: dict[str, Any] = {"step": None, "loss": None, "evaluation": {}}
    code = exit_code(path)
    if not (path / "config.yaml").is_file():
        status = FAILED if code else ABSENT
        return {**line, "status": status, **nothing, "exit_code": code, "cause": last_cause(path)}
    try:
        run = read_run(path)
    except RuntimeError as error:
        return {**line, "status": FAILED, **nothing, "exit_code": code, "cause": str(error)}
    status = status_of(run, code)
    last = run.metrics[-1] if run.metrics else {}
    step = None if last.get("step") is None else int(last["step"] or 0)
    cause = last_cause(path) if status == FAILED else None
    figures = {"step": step, "loss": last.get("loss"), "evaluation": accuracies(run)}
    return {**line, "status": status, **figures, "exit_code": code, "cause": cause}


def status_of(run: Run, code: int | None) -> str:
    """How a run stands: by its own notes first, then by what its last launch ended with."""
    if run.status == "finished":
        return FINISHED
    if run.requeued:
        return STOPPED
    return FAILED if code else OPEN


def accuracies(run: Run) -> dict[str, float]:
    """Top-1 by task."""
    found = {str(entry.get("task")): number(entry.get("trained")) for entry in run.evaluation}
    if not found:
        events = [line for line in run.events if line.get("event") == "evaluation"]
        aside = ("step", "seconds", "best")
        last = events[-1] if events else {}
        found = {name: number(value) for name, value in last.items() if name not in aside}
    return {name: value for name, value in found.items() if value is not None}


def exit_code(path: Path) -> int | None:
    """What the last launch of a run ended with; None: it has not."""
    try:
        return int((path / EXIT_CODE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def note_end(path: Path, code: int, cause: str | None = None) -> None:
    """Writes for the table what a launch ended with.

    Args:
        cause: of one that has started no rank to tell it.
    """
    (path / EXIT_CODE).parent.mkdir(parents=True, exist_ok=True)
    replace_text(path / EXIT_CODE, f"{code}\n")
    if cause is not None:
        replace_text(path / CAUSE, f"{cause}\n")


def forget_end(path: Path) -> None:
    """Removes it, for a start that has not ended yet."""
    for name in (EXIT_CODE, CAUSE):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            (path / name).unlink()


def last_cause(path: Path) -> str | None:
    """What kept the last launch from starting, or else what the fault that came last says of itself."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (path / CAUSE).read_text(encoding="utf-8").strip()
    faults = recorded(path)
    return str(faults[-1].get("cause")) if faults else None


def is_finished(path: Path, config: Any) -> bool:
    """Whether a run with these very settings has come to its end."""
    from viewmill.engine.config import ConfigError, load_config

    if not (path / "config.yaml").is_file():
        return False
    try:
        saved = load_config(path / "config.yaml")
    except ConfigError:
        return False
    events = [line.get("event") for line in read_lines(path / "events.jsonl")]
    return saved == config and events[-1:] == ["end"]


def write_results(folder: Path, lines: Sequence[dict[str, Any]]) -> list[Path]:
    """results.json and results.csv in the folder of a sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": json.dumps(lines, indent=2, allow_nan=False) + "\n",
        "results.csv": as_csv(lines),
    }
    for name, text in texts.items():
        replace_text(folder / name, text)
    return [folder / name for name in texts]


def as_csv(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each run; a figure that is not there is an empty cell."""
    keys, tasks = list(lines[0]["settings"]), tasks_of(lines)
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(["run", *keys, *COLUMNS, *tasks, "exit_code", "cause"])
    for line in lines:
        figures = [line[name] for name in COLUMNS] + [line["evaluation"].get(task) for task in tasks]
        writer.writerow([line["run"], *line["settings"].values(), *figures, line["exit_code"], line["cause"]])
    return target.getvalue()


def table(lines: Sequence[dict[str, Any]]) -> "Table":
    """The same for the terminal, with accuracies in percent."""
    from viewmill.tools.tables import new_table

    keys, tasks = list(lines[0]["settings"]), tasks_of(lines)
    rows = []
    for line in lines:
        step = "" if line["step"] is None else f"{line['step']:,}"
        loss = "" if line["loss"] is None else f"{line['loss']:.4f}"
        scores = [line["evaluation"].get(task) for task in tasks]
        shown = ["" if score is None else f"{100 * score:.2f}" for score in scores]
        rows.append((*line["settings"].values(), line["status"], step, loss, *shown))
    columns = (*keys, *COLUMNS, *(f"{task} %" for task in tasks))
    return new_table("sweep", columns, rows, numbers_from=len(keys) + 1)


def tasks_of(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The tasks of all runs, in the order in which they come up."""
    return list(dict.fromkeys(task for line in lines for task in line["evaluation"]))
