"""How a run shows itself: one bar on a terminal, a line now and then elsewhere; rank 0 only."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
# Characters of a terminal that has room for the bar, and for its name and longer words too.
BAR, WIDE = 75, 90


class TrainingProgress:
    """Steps done of how many, with the loss, images/s, share of time spent waiting for data, and ETA.

    Args:
        is_shown: on this rank. counts: steps too, and not only what is told; two bars on one terminal would
            write over each other.
    """

    def __init__(
        self,
        total_steps: int,
        done: int,
        *,
        is_shown: bool,
        counts: bool = True,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(file=sys.stderr)
        self._total, self._done, self._start = total_steps, done, done
        self._is_shown, self._counts = is_shown, is_shown and counts
        self._began_s = self._line_s = time.monotonic()
        self._figures = {"loss": float("nan"), "images_per_s": float("nan"), "wait": float("nan")}
        self._is_wide = self._console.width >= WIDE
        self._bar: Progress | None = None
        if self._counts and self._console.is_terminal:
            self._bar = self._new_bar()
            self._task = self._bar.add_task("train", total=total_steps, completed=done, figures="")

    def _new_bar(self) -> Progress:
        name = [TextColumn("{task.description}")] if self._is_wide else []
        bar = [BarColumn()] if self._console.width >= BAR else []
        return Progress(
            *name,
            *bar,
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
        )

    def figures(self, *, loss: float, images_per_s: float, data_wait_fraction: float) -> None:
        """New numbers to show, as often as they are measured."""
        self._figures = {"loss": loss, "images_per_s": images_per_s, "wait": data_wait_fraction}

    def tell(self, text: str) -> None:
        """A line of its own, beside the bar."""
        if self._is_shown:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self) -> None:
        """One more step is done."""
        self._done += 1
        if not self._counts:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, figures=self._text())
        elif time.monotonic() - self._line_s >= LINE_EVERY_S or self._done == self._total:
            self._line_s = time.monotonic()
            self._console.print(
                f"step {self._done}/{self._total}  {self._text()}  eta {self._eta()}",
                highlight=False,
                soft_wrap=True,
            )

    def _text(self) -> str:
        loss, rate, wait = self._figures["loss"], self._figures["images_per_s"], self._figures["wait"]
        data = "data " if self._bar is None or self._is_wide else ""
        return f"loss {loss:.4f}  {rate:.0f} images/s  {data}wait {100 * wait:.0f} %"

    def _eta(self) -> str:
        passed = time.monotonic() - self._began_s
        seconds = round(passed / (self._done - self._start) * (self._total - self._done))
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def __enter__(self) -> "TrainingProgress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
