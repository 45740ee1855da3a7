"""A service told in the background: training neither waits for it nor stops for it."""

import json
import queue
import threading
import time
from pathlib import Path
from typing import Any

from viewmill.engine.trackers.service import Outcome, Service

# Lines of a day at one a second and more; a service that leaves so many waiting does not answer.
MOST_WAITING = 100_000
PATIENCE_S = 60.0  # at the end of a session, for what still waits


class Tracker:
    """Passes a run's figures on to one service, in a thread of its own.

    The id of the run at the service is kept in a file, with the settings that led to it: a later session with
    the same settings goes on with it, one with others begins anew.

    Args:
        name: of the service.
        place: settings that say where the run lies there; others need another id.
        file: where the id is kept.
        run: the run folder's name.
        settings: the run's.
    """

    def __init__(
        self,
        name: str,
        service: Service,
        place: dict[str, Any],
        file: Path,
        run: str,
        settings: dict[str, Any],
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.name = name
        self._service, self._place, self._file = service, place, file
        self._run, self._settings = run, settings
        self._waiting: queue.Queue[dict[str, float] | None] = queue.Queue(most_waiting)
        self._outcome: Outcome = "finished"
        self._failure: str | None = None
        self._is_told = False
        # A daemon: one that hangs in a network does not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def send(self, figures: dict[str, float]) -> None:
        """Puts a line in the queue; after a failure it is dropped, for the run's own files have it."""
        if self._failure is not None:
            return
        try:
            self._waiting.put_nowait(figures)
        except queue.Full:
            self._failure = f"{self._waiting.maxsize} lines wait, and the service takes none"

    def news(self) -> str | None:
        """Why the service is told nothing any more: once, then None; None: it is well."""
        if self._failure is None or self._is_told:
            return None
        self._is_told = True
        return self._failure

    def end(self, outcome: Outcome, patience_s: float = PATIENCE_S) -> None:
        """Waits until the service has everything, though not for ever; then `news` has the last word."""
        self._outcome = outcome
        if self._failure is not None:
            return
        began_s = time.monotonic()
        try:
            self._waiting.put(None, timeout=patience_s)
            self._thread.join(max(0.0, patience_s + began_s - time.monotonic()))
        except queue.Full:  # and it stays full: told below
            pass
        if self._thread.is_alive():
            self._failure = (
                f"{self._waiting.qsize()} lines and the run's end are not there after {patience_s:g} s"
            )

    def _work(self) -> None:
        try:
            self._keep(self._service.begin(self._kept(), self._run, self._settings))
            while (figures := self._waiting.get()) is not None:
                self._service.metrics(figures)
            self._service.end(self._outcome)
        except Exception as error:  # of whatever kind these libraries raise: `news` carries it
            self._failure = f"{type(error).__name__}: {error}"

    def _kept(self) -> str | None:
        if not self._file.is_file():
            return None
        kept = json.loads(self._file.read_text(encoding="utf-8"))
        return kept["id"] if kept["place"] == self._place else None

    def _keep(self, run_id: str) -> None:
        self._file.parent.mkdir(exist_ok=True)
        aside = self._file.with_name(f"{self._file.name}.tmp")
        aside.write_text(json.dumps({"id": run_id, "place": self._place}) + "\n", encoding="utf-8")
        aside.replace(self._file)
