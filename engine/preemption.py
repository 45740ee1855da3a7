"""Signals of a scheduler become the end of a step: saved, noted and handed to the caller as `Requeue`."""

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REQUEUE_EXIT_CODE = 85


class Requeue(Exception):
    """The run was asked to stop; its checkpoint is written and it goes on with --resume (exit code 85)."""

    def __init__(self, signal_name: str, step: int, run_dir: Path) -> None:
        super().__init__(
            f"{signal_name} after step {step}: saved; continue with the same command and --resume ({run_dir})"
        )
        self.signal_name, self.step, self.run_dir = signal_name, step, run_dir


class SignalWatch:
    """Notes the first SIGTERM, SIGUSR1 or SIGINT instead of dying; a second SIGINT interrupts as usual.

    Outside the main thread Python allows no handlers, and none is set.
    """

    def __init__(self) -> None:
        self.seen = 0  # number of the signal; 0: none
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> "SignalWatch":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def write_requeue(run_dir: Path, signal_name: str, step: int) -> None:
    """RUN/requeue.json: launchers read its presence as 'not failed, start again with --resume'."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = json.dumps({"signal": signal_name, "step": step, "time": stamp})
    aside = run_dir / "requeue.json.tmp"
    aside.write_text(text + "\n", encoding="utf-8")
    aside.replace(run_dir / "requeue.json")
