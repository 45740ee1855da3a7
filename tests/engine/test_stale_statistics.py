"""When a prior is too old for its teacher: told with what to do, and by the equation that it is told from."""

import math
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.config import RunConfig
from viewmill.engine.stale_statistics import MOST_LAG, stale_notice
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import start_world, stop_world

from tests.engine.tiny import tiny_config, tiny_data_set


def config(**method: Any) -> RunConfig:
    tree = {"epochs": 2, "batch_size": 8, "method": {"name": "distill", "num_clusters": 8, **method}}
    return RunConfig.model_validate(tree)


def teacher(momentum: float) -> dict[str, Any]:
    return {"kind": "ema", "momentum": momentum}


def last_swing(moved: float, lag: int = 500) -> float:
    """|x| after 40 lags over |x| at the start, of dx/dt = -(moved / lag) x(t - lag), a step at a time."""
    x = [1.0] * (lag + 1)
    for _ in range(40 * lag):
        x.append(x[-1] - moved / lag * x[-1 - lag])
    return max(map(abs, x[-2 * lag :]))


def test_sizes_decay_below_the_bound_and_run_away_above_half_pi() -> None:
    assert last_swing(MOST_LAG) < 1e-3
    assert last_swing(math.pi / 2 * 0.9) < 1
    assert last_swing(math.pi / 2 * 1.1) > 1


def test_below_the_bound_they_do_not_swing() -> None:
    for moved, swings in ((MOST_LAG, False), (2 * MOST_LAG, True)):
        x = [1.0] * 501
        for _ in range(20_000):
            x.append(x[-1] - moved / 500 * x[-501])
        assert (min(x) < 0) is swings


def test_a_teacher_that_outruns_its_prior_is_told_with_a_momentum_that_would_do() -> None:
    told = stale_notice(config(scope="dataset", teacher=teacher(0.99)), steps_per_epoch=140)
    assert told is not None
    assert "140 steps old while the teacher moves by 1.40 of its way" in told
    assert "method.teacher={kind: copy}" in told
    slow = float(told.rpartition("from ")[2].partition(" ")[0])
    assert stale_notice(config(scope="dataset", teacher=teacher(slow + 1e-5)), 140) is None
    assert stale_notice(config(scope="dataset", teacher=teacher(slow - 1e-5)), 140) is not None


def test_a_window_is_half_as_old_again_as_a_pass() -> None:
    bound = 1 - MOST_LAG / 100
    between = config(scope="dataset", teacher=teacher(bound + 1e-6))
    assert stale_notice(between, 100) is None
    streamed = stale_notice(config(scope="streaming", teacher=teacher(bound + 1e-6)), 100)
    assert streamed is not None
    assert "150 steps old" in streamed
    assert "kind: copy" not in streamed


@pytest.mark.parametrize(
    "method",
    [
        {"scope": "batch"},
        {"scope": "ema"},
        {"normalization": "sinkhorn"},
        {"scope": "dataset", "teacher": {"kind": "copy"}},
        {"scope": {"kind": "dataset", "every_epochs": 2}, "teacher": {"kind": "copy", "every_epochs": 4}},
    ],
)
def test_statistics_that_are_those_of_the_teacher_are_not_told(method: dict[str, Any]) -> None:
    assert stale_notice(config(**({"teacher": teacher(0.9)} | method)), 1000) is None


def test_a_copied_teacher_with_an_older_prior_is_told() -> None:
    old = {"scope": {"kind": "dataset", "every_epochs": 3}, "teacher": {"kind": "copy", "every_epochs": 2}}
    assert "renewed every 3 epochs only" in str(stale_notice(config(**old), 10))
    streamed = config(scope="streaming", normalization="center", teacher={"kind": "copy"})
    assert "the centre is of the teacher before" in str(stale_notice(streamed, 10))


def test_other_methods_have_none() -> None:
    assert stale_notice(RunConfig(epochs=1, batch_size=8), 1000) is None


@pytest.mark.slow
def test_a_run_notes_it(tmp_path: Path) -> None:
    data = tiny_data_set(tmp_path / "data", 26)
    method = {
        "name": "distill",
        "num_clusters": 8,
        "scope": "streaming",
        "projector": {"layers": 2, "hidden": 16, "dim": 8},
        "teacher": teacher(0.5),
    }
    world = start_world("cpu")
    try:
        train(tiny_config(method=method, max_steps=1), data, tmp_path / "run", world=world)
    finally:
        stop_world(world)
    (notice,) = [e for e in read_lines(tmp_path / "run" / "events.jsonl") if e["event"] == "notice"]
    assert notice["message"].startswith("the prior gets 4 steps old while the teacher moves by 2.25")
