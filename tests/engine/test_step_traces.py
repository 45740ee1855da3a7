"""Traces of chosen steps: what they hold, when there are none, and one that cannot be written."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine.config import ConfigError, load_config
from viewmill.engine.step_traces import StepTraces, check_traced_steps
from viewmill.engine.telemetry import RunLog, read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.tiny import metrics, tiny_config, tiny_data_set

ALONE = World(0, 1, 0, torch.device("cpu"))


def spans(path: Path) -> list[str]:
    """The steps in a trace, in their order; it must hold operators too."""
    with gzip.open(path, "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [str(event.get("name")) for event in events if event.get("cat") == "user_annotation"]
    assert any(str(event.get("name")).startswith("aten::") for event in events)
    return sorted({name for name in names if name.startswith("step ")})


def go(folder: Path, steps: tuple[int, int] | None, trained: range, *, ends: bool = True) -> None:
    """Multiplies two matrices at each step of `trained`, after the last of which the session ends."""
    log = RunLog(folder, is_writer=True, tensorboard=False)
    with log, StepTraces(steps, folder / "profile", ALONE, log) as traces:
        for step in trained:
            traces.begin(step)
            torch.ones(4, 4) @ torch.ones(4, 4)
            traces.end(step, is_last=ends and step == trained[-1])


def events(folder: Path) -> list[dict[str, Any]]:
    lines = read_lines(folder / "events.jsonl")
    return [{"steps": line["steps"], "failures": line["failures"]} for line in lines]


def test_a_trace_holds_the_steps_that_were_asked_for_and_no_others(tmp_path: Path) -> None:
    go(tmp_path, (2, 3), range(1, 6))
    assert spans(tmp_path / "profile" / "rank-0.json.gz") == ["step 2", "step 3"]
    assert [path.name for path in (tmp_path / "profile").iterdir()] == ["rank-0.json.gz"]
    assert events(tmp_path) == [{"steps": [2, 3], "failures": []}]


@pytest.mark.parametrize(("trained", "found"), [(range(1, 4), ["step 3"]), (range(4, 9), ["step 4"])])
def test_a_session_that_ends_or_begins_among_the_steps_has_its_own(
    tmp_path: Path, trained: range, found: list[str]
) -> None:
    go(tmp_path, (3, 4), trained)
    assert spans(tmp_path / "profile" / "rank-0.json.gz") == found


@pytest.mark.parametrize("steps", [None, (7, 8)])
def test_nothing_is_written_where_no_such_step_is_trained(
    tmp_path: Path, steps: tuple[int, int] | None
) -> None:
    go(tmp_path, steps, range(1, 4))
    assert [path.name for path in tmp_path.iterdir() if path.stat().st_size] == []


def test_a_trace_that_cannot_be_written_is_told_and_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("a file where the folder should be")
    go(tmp_path, (1, 1), range(1, 3))
    (event,) = events(tmp_path)
    assert event["steps"] == [1, 1]
    assert event["failures"][0].startswith("FileExistsError")


def test_an_error_among_the_steps_leaves_torchs_profiler_free_for_others(tmp_path: Path) -> None:
    def bad_batch(traces: StepTraces) -> None:
        with traces:
            traces.begin(1)
            raise ValueError("bad batch")

    with RunLog(tmp_path, is_writer=True, tensorboard=False) as log, pytest.raises(ValueError, match="bad"):
        bad_batch(StepTraces((1, 2), tmp_path / "profile", ALONE, log))
    assert not (tmp_path / "profile").exists()
    go(tmp_path, (1, 1), range(1, 2))
    assert spans(tmp_path / "profile" / "rank-0.json.gz") == ["step 1"]


@pytest.mark.parametrize("steps", ["[3, 2]", "[0, 2]"])
def test_what_is_no_range_of_steps_is_refused(steps: str) -> None:
    with pytest.raises(ConfigError, match=r"profile\.steps.* first and the last step, counted from 1"):
        load_config("hydes_tiny", [f"profile.steps={steps}"])


def test_steps_after_the_end_of_the_run_are_refused() -> None:
    check_traced_steps((5, 90), last_step=5)
    with pytest.raises(ConfigError, match=r"profile\.steps=\[6, 7\] begins after the run's last step, 5"):
        check_traced_steps((6, 7), last_step=5)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    threads = torch.get_num_threads()
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_training_leaves_a_trace_of_its_steps_and_is_the_same_training(
    tmp_path: Path, world: World
) -> None:
    data = tiny_data_set(tmp_path, count=8)
    for name, traced in (("traced", {"steps": [2, 3]}), ("plain", {})):
        config = tiny_config(epochs=3, profile=traced, checkpoint={"every_epochs": None})
        train(config, data, tmp_path / name, world=world)
    assert spans(tmp_path / "traced" / "profile" / "rank-0.json.gz") == ["step 2", "step 3"]
    assert not (tmp_path / "plain" / "profile").exists()
    assert metrics(tmp_path / "traced") == metrics(tmp_path / "plain")
