"""What a run writes and shows."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from viewmill.engine.clock import StepClock
from viewmill.engine.progress import TrainingProgress
from viewmill.engine.telemetry import RunLog, prometheus_text, read_lines


def log(folder: Path, resume_step: int = 0, tensorboard: bool = False) -> RunLog:
    return RunLog(folder, is_writer=True, tensorboard=tensorboard, resume_step=resume_step)


def write_steps(folder: Path, steps: range, resume_step: int = 0, tensorboard: bool = False) -> None:
    with log(folder, resume_step, tensorboard) as run_log:
        for step in steps:
            run_log.metrics({"step": step, "loss": step / 10})


def test_a_resumed_run_trains_the_lines_after_its_checkpoint_again(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 8))
    write_steps(tmp_path, range(6, 10), resume_step=5)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == list(range(1, 10))


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    write_steps(tmp_path, range(4, 6), resume_step=4)
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5]


def test_events_stay_when_a_run_is_resumed(tmp_path: Path) -> None:
    with log(tmp_path) as run_log:
        run_log.event("start", 0, world_size=2)
        run_log.event("checkpoint", 5)
    with log(tmp_path, resume_step=3) as run_log:
        run_log.event("resume", 3)
    events = read_lines(tmp_path / "events.jsonl")
    assert [(event["event"], event["step"]) for event in events] == [
        ("start", 0),
        ("checkpoint", 5),
        ("resume", 3),
    ]
    assert events[0]["world_size"] == 2


def test_a_number_that_is_none_is_null_in_the_file(tmp_path: Path) -> None:
    with log(tmp_path, tensorboard=True) as run_log:
        run_log.metrics({"step": 1, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.5})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "loss": None, "grad_norm": None, "lr": 0.5}


def test_tensorboard_holds_the_same_numbers(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 4), tensorboard=True)
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(scalar.step, round(scalar.value, 6)) for scalar in board.Scalars("loss")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]


def test_only_one_rank_writes(tmp_path: Path) -> None:
    with RunLog(tmp_path, is_writer=False, tensorboard=True) as run_log:
        run_log.metrics({"step": 1, "loss": 1.0})
        run_log.event("start", 0)
    assert list(tmp_path.iterdir()) == []


def test_a_clock_tells_steps_and_waits_from_one_line_to_the_next() -> None:
    times = iter([0.0, 1.0, 1.5, 2.0, 4.0, 4.0, 10.0, 10.0])
    clock = StepClock(3.0, now=lambda: next(times))  # begins at 0
    with clock.meeting():  # from 1 to 1.5
        pass
    clock.count(32)  # at 2
    clock.count(32)  # at 4
    figures = clock.read(3.8)  # at 4
    assert figures == pytest.approx(
        {"images_per_s": 16, "data_wait_fraction": 0.2, "rank_wait_fraction": 0.125}
        | {"step_s": 2, "step_p50_s": 2, "step_p95_s": 2}
    )


def test_percentiles_are_those_of_the_steps_since_the_last_line() -> None:
    now = [0.0]
    clock = StepClock(0.0, now=lambda: now[0])
    for seconds in range(1, 22):
        now[0] += seconds
        clock.count(1)
    figures = clock.read(0.0)
    assert (figures["step_p50_s"], figures["step_p95_s"], figures["step_s"]) == pytest.approx((11, 20, 11))
    now[0] += 5
    clock.count(1)
    again = clock.read(1e9)
    assert (again["step_p50_s"], again["step_p95_s"], again["data_wait_fraction"]) == (5, 5, 1)


def folder(tmp_path: Path) -> Path:
    (tmp_path / "r").mkdir()
    return tmp_path / "r"


def test_prometheus_finds_the_last_line_whole(tmp_path: Path) -> None:
    file = tmp_path / "viewmill.prom"
    with RunLog(folder(tmp_path), is_writer=True, tensorboard=False, prometheus=file) as run_log:
        for step in (1, 2):
            run_log.metrics({"step": step, "loss": 0.5 * step, "grad_norm": float("nan")})
    assert file.read_text() == (
        '# TYPE viewmill_step gauge\nviewmill_step{run="r"} 2\n'
        '# TYPE viewmill_loss gauge\nviewmill_loss{run="r"} 1.0\n'
    )
    assert prometheus_text({"step": 1}, 'a"b\\').endswith('{run="a\\"b\\\\"} 1\n')


def test_every_figure_of_every_rank_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "ranks.jsonl").write_text('{"step": 1}\n{"step": 9}\n')
    with RunLog(tmp_path, is_writer=True, tensorboard=False, resume_step=4) as run_log:
        run_log.ranks(
            5, [{"step_s": 1.0, "rank_wait_fraction": 0.5}, {"step_s": 1.5, "rank_wait_fraction": 0.0}]
        )
    assert read_lines(tmp_path / "ranks.jsonl") == [
        {"step": 1},
        {"step": 5, "step_s": [1.0, 1.5], "rank_wait_fraction": [0.5, 0.0]},
    ]


def shown(is_terminal: bool, is_shown: bool = True, counts: bool = True) -> str:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=120)
    with TrainingProgress(12, 10, is_shown=is_shown, counts=counts, console=console) as progress:
        progress.figures(loss=-1.25, images_per_s=321.0, data_wait_fraction=0.07)
        progress.advance()
        progress.advance()
    return screen.getvalue()


def test_a_terminal_shows_one_bar_with_the_figures_and_an_eta() -> None:
    screen = shown(is_terminal=True)
    for text in ("12/12", "loss -1.2500", "321 images/s", "data wait 7 %", "eta"):
        assert text in screen


def test_elsewhere_it_is_a_line_now_and_then() -> None:
    lines = shown(is_terminal=False).splitlines()
    assert lines == ["step 12/12  loss -1.2500  321 images/s  data wait 7 %  eta 0:00:00"]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_run_whose_watcher_shows_how_far_it_is_shows_no_steps(is_terminal: bool) -> None:
    assert shown(is_terminal, counts=False) == ""


def test_other_ranks_show_nothing() -> None:
    assert shown(is_terminal=True, is_shown=False) == shown(is_terminal=False, is_shown=False) == ""
