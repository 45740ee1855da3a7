"""What a run writes down while it goes: metrics.jsonl, events.jsonl and TensorBoard, on rank 0."""

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

INFINITE = (float("inf"), float("-inf"))


class RunLog:
    """Appends metrics and events of one run; on other ranks it accepts them and writes nothing."""

    def __init__(self, run_dir: Path, *, is_writer: bool, tensorboard: bool, resume_step: int = 0) -> None:
        """Opens the files; lines after `resume_step` (steps done) are cut, for they are trained again."""
        self._metrics: TextIO | None = None
        self._events: TextIO | None = None
        self._board: SummaryWriter | None = None
        if not is_writer:
            return
        cut_after(run_dir / "metrics.jsonl", resume_step)
        self._metrics = (run_dir / "metrics.jsonl").open("a", encoding="utf-8")
        self._events = (run_dir / "events.jsonl").open("a", encoding="utf-8")
        if tensorboard:
            self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=resume_step + 1)

    def metrics(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl, its numbers to TensorBoard at `line["step"]`."""
        if self._metrics is None:
            return
        # A skipped step's loss is no number, and JSON has no NaN: null.
        line = {name: None if value != value or value in INFINITE else value for name, value in line.items()}
        _append(self._metrics, line)
        if self._board is not None:
            for name, value in line.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, line["step"])

    def event(self, kind: str, step: int, **details: Any) -> None:
        """One line of events.jsonl: what happened, after how many steps, and when (UTC)."""
        if self._events is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            _append(self._events, {"event": kind, "step": step, "time": stamp, **details})

    def close(self) -> None:
        for file in (self._metrics, self._events):
            if file is not None:
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
        self.close()


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
    aside = path.with_suffix(".jsonl.tmp")
    aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    aside.replace(path)


class Throughput:
    """Images, steps, wall time and time spent waiting for data since the last line."""

    def __init__(self, wait_s: float) -> None:
        """`wait_s`: the loader's total so far."""
        self._begin(wait_s)

    def _begin(self, wait_s: float) -> None:
        self._began_s, self._wait_s, self._images, self._steps = time.monotonic(), wait_s, 0, 0

    def count(self, images: int) -> None:
        """One more step of so many images (of all ranks)."""
        self._images += images
        self._steps += 1

    def read(self, wait_s: float) -> dict[str, float]:
        """images_per_s, data_wait_fraction and step_s of this stretch; the next one begins."""
        passed = time.monotonic() - self._began_s
        figures = {
            "images_per_s": self._images / passed,
            "data_wait_fraction": min(1.0, (wait_s - self._wait_s) / passed),
            "step_s": passed / self._steps,
        }
        self._begin(wait_s)
        return figures
