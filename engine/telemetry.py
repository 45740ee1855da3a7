"""What a run writes down while it goes, on rank 0: figures, events, TensorBoard, Prometheus, trackers."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from viewmill.engine.preemption import Requeue
from viewmill.engine.trackers.service import Outcome
from viewmill.engine.trackers.tracker import Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

INFINITE = (float("inf"), float("-inf"))


class RunLog:
    """Appends metrics and events of one run; on other ranks it accepts them and writes nothing."""

    def __init__(
        self,
        run_dir: Path,
        *,
        is_writer: bool,
        tensorboard: bool,
        prometheus: Path | None = None,
        resume_step: int = 0,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Opens the files; lines after `resume_step` (steps done) are cut, for they are trained again.

        prometheus: a file that is replaced with every line, for a collector of text files; None: none.
        trackers: have begun; they end with the log. One that fails is an event.
        """
        self._files: dict[str, TextIO] = {}
        self._board: SummaryWriter | None = None
        self._prometheus, self._run = prometheus if is_writer else None, run_dir.name
        self._trackers, self._step = trackers, resume_step
        if not is_writer:
            return
        for name in ("metrics", "ranks"):
            cut_after(run_dir / f"{name}.jsonl", resume_step)
        cut_torn_line(run_dir / "events.jsonl")
        for name in ("metrics", "ranks", "events"):
            self._files[name] = (run_dir / f"{name}.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            self._board = tensorboard_in(run_dir, resume_step)

    def metrics(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl; its numbers go to Prometheus, TensorBoard and the trackers too."""
        if not self._files:
            return
        # A skipped step's loss is no number, and JSON has no NaN: null.
        line = {name: None if value != value or value in INFINITE else value for name, value in line.items()}
        _append(self._files["metrics"], line)
        if self._prometheus is not None:
            replace_text(self._prometheus, prometheus_text(line, self._run))
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, line["step"])
        self._tell_trackers(line)

    def ranks(self, step: int, figures: list[dict[str, float]]) -> None:
        """One line of ranks.jsonl: each figure of all ranks, in their order."""
        if self._files:
            columns = {name: [one[name] for one in figures] for name in figures[0]}
            _append(self._files["ranks"], {"step": step, **columns})

    def evaluation(self, step: int, found: dict[str, float], **details: Any) -> None:
        """An event of the accuracies by task; TensorBoard and trackers have them too."""
        self.event("evaluation", step, **found, **details)
        if self._board is not None:
            for task, top1 in found.items():
                self._board.add_scalar(f"evaluation/{task}", top1, step)
        self._tell_trackers({"step": step} | {f"evaluation/{task}": top1 for task, top1 in found.items()})

    def _tell_trackers(self, line: dict[str, Any]) -> None:
        self._step = line["step"]
        for tracker in self._trackers:
            tracker.send({name: value for name, value in line.items() if value is not None})
        self._tell_of_trackers()

    def _tell_of_trackers(self) -> None:
        for tracker in self._trackers:
            reason = tracker.news()
            if reason is not None:
                self.event("tracker_failed", self._step, tracker=tracker.name, reason=reason)

    def event(self, kind: str, step: int, **details: Any) -> None:
        """One line of events.jsonl: what happened, after how many steps, and when (UTC)."""
        if self._files:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            _append(self._files["events"], {"event": kind, "step": step, "time": stamp, **details})

    def fault(self, told: dict[str, Any]) -> None:
        """An event of what ended an earlier start, see `faults.record`; `at` is when that was."""
        details = {name: value for name, value in told.items() if name not in ("kind", "step", "time")}
        self.event("fault", told["step"], what=told["kind"], at=told["time"], **details)

    def close(self, outcome: Outcome = "finished") -> None:
        for tracker in self._trackers:
            tracker.end(outcome)
        self._tell_of_trackers()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, (Requeue, KeyboardInterrupt))
        self.close("finished" if error is None else "stopped" if stopped else "failed")


def tensorboard_in(run_dir: Path, resume_step: int) -> "SummaryWriter":
    """Where TensorBoard's figures go; those after `resume_step` are dropped."""
    from torch.utils.tensorboard import SummaryWriter  # here, or every rank would wait for the import

    return SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)


def _append(file: TextIO, line: dict[str, Any]) -> None:
    file.write(json.dumps(line, allow_nan=False) + "\n")
    file.flush()  # a killed run keeps its lines


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; a last line that a kill cut short is left out."""
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in whole]


def cut_after(path: Path, step: int) -> None:
    """Keeps the lines of the first `step` steps; atomic, so that a kill loses no line."""
    if not path.is_file():
        return
    kept = [line for line in read_lines(path) if line["step"] <= step]
    replace_text(path, "".join(json.dumps(line) + "\n" for line in kept))


def cut_torn_line(path: Path) -> None:
    """Drops a last line that a kill or a full disk has cut short, so that the next one stands by itself."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text and not text.endswith("\n"):
        replace_text(path, text[: text.rfind("\n") + 1])


def replace_text(path: Path, text: str) -> None:
    """Puts a file in place of another at once: whoever reads it finds the old one or the new one."""
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def prometheus_text(line: dict[str, Any], run: str) -> str:
    """A line's numbers as gauges viewmill_NAME with the label `run`, in Prometheus's text format."""
    escaped = run.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return "".join(
        f'# TYPE viewmill_{name} gauge\nviewmill_{name}{{run="{escaped}"}} {value}\n'
        for name, value in line.items()
        if value is not None
    )
