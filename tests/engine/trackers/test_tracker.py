"""A service told in the background: what it gets, and what happens when it is slow, wrong or gone."""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from viewmill.engine.preemption import Requeue
from viewmill.engine.telemetry import RunLog, read_lines
from viewmill.engine.trackers.service import Outcome
from viewmill.engine.trackers.tracker import Tracker


class Notebook:
    """A service that writes down what it is told; it waits for `gate`, and fails at the word `fails_at`."""

    def __init__(self, fails_at: str = "", gate: Event | None = None) -> None:
        self.told: list[Any] = []
        self._fails_at, self._gate = fails_at, gate

    def begin(self, run_id: str | None, name: str, settings: dict[str, Any]) -> str:
        self._note("begin", run_id, name)
        return run_id or "new"

    def metrics(self, figures: dict[str, float]) -> None:
        self._note("metrics", figures)

    def end(self, outcome: Outcome) -> None:
        self._note("end", outcome)

    def _note(self, word: str, *more: Any) -> None:
        if self._gate is not None:
            self._gate.wait(timeout=60)
        if word == self._fails_at:
            raise ConnectionError("no route")
        self.told.append((word, *more))


def tracker(service: Notebook, folder: Path, most_waiting: int = 9, **place: Any) -> Tracker:
    return Tracker("notes", service, place, folder / "t" / "notes.json", "run", {}, most_waiting)


def events(folder: Path) -> list[tuple[str, str]]:
    lines = read_lines(folder / "events.jsonl")
    return [(line["tracker"], line["reason"]) for line in lines if line["event"] == "tracker_failed"]


def log_two_lines(folder: Path, told: Tracker) -> None:
    with RunLog(folder, is_writer=True, tensorboard=False, trackers=[told]) as log:
        log.metrics({"step": 1, "loss": 0.5, "grad_norm": float("nan")})
        log.evaluation(1, {"knn@20": 0.25}, best=1)
        log.metrics({"step": 2, "loss": 0.25, "grad_norm": 1.0})


def test_a_service_gets_the_lines_in_their_order_without_what_is_no_number(tmp_path: Path) -> None:
    service = Notebook()
    log_two_lines(tmp_path, tracker(service, tmp_path))
    assert service.told == [
        ("begin", None, "run"),
        ("metrics", {"step": 1, "loss": 0.5}),
        ("metrics", {"step": 1, "evaluation/knn@20": 0.25}),
        ("metrics", {"step": 2, "loss": 0.25, "grad_norm": 1.0}),
        ("end", "finished"),
    ]
    assert events(tmp_path) == []


def test_a_later_session_goes_on_with_the_same_run_and_one_elsewhere_does_not(tmp_path: Path) -> None:
    for place, expected in (("here", None), ("here", "new"), ("there", None)):
        service = Notebook()
        tracker(service, tmp_path, project=place).end("finished")
        assert service.told[0] == ("begin", expected, "run")


@pytest.mark.parametrize("word", ["begin", "metrics", "end"])
def test_a_service_that_fails_is_one_event_and_the_log_goes_on(tmp_path: Path, word: str) -> None:
    log_two_lines(tmp_path, tracker(Notebook(fails_at=word), tmp_path))
    assert events(tmp_path) == [("notes", "ConnectionError: no route")]
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_nobody_waits_for_a_service_that_does_not_answer(tmp_path: Path) -> None:
    gate = Event()
    told = tracker(Notebook(gate=gate), tmp_path, most_waiting=2)
    for step in range(3):
        told.send({"step": step})
    assert told.news() == "2 lines wait, and the service takes none"
    assert told.news() is None
    told.end("finished")
    gate.set()


@pytest.mark.parametrize("most_waiting", [1, 9])
def test_the_end_of_a_session_waits_so_long_and_no_longer(tmp_path: Path, most_waiting: int) -> None:
    gate = Event()
    told = tracker(Notebook(gate=gate), tmp_path, most_waiting)
    told.send({"step": 1})
    told.end("finished", patience_s=0.05)
    assert "the run's end are not there after 0.05 s" in str(told.news())
    gate.set()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Requeue("SIGTERM", 1, Path()), "stopped"), (KeyboardInterrupt(), "stopped"), (OSError(), "failed")],
)
def test_a_service_learns_how_the_session_ended(
    tmp_path: Path, error: BaseException, outcome: Outcome
) -> None:
    service = Notebook()

    def session() -> None:
        with RunLog(tmp_path, is_writer=True, tensorboard=False, trackers=[tracker(service, tmp_path)]):
            raise error

    with pytest.raises(type(error)):
        session()
    assert service.told[-1] == ("end", outcome)


def test_the_id_is_kept_with_the_place_it_belongs_to(tmp_path: Path) -> None:
    tracker(Notebook(), tmp_path, project="p", entity=None).end("finished")
    kept = json.loads((tmp_path / "t" / "notes.json").read_text())
    assert kept == {"id": "new", "place": {"project": "p", "entity": None}}
