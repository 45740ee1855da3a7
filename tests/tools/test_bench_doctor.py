"""`bench doctor` at the smallest size: predictions beside what real runs give."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from viewmill.shards.convert import convert
from viewmill.tools.bench.charts import charts_of
from viewmill.tools.bench.doctor import (
    SCENARIOS,
    Scenario,
    Sizes,
    comparisons,
    config_of,
    run,
    tables,
)
from viewmill.tools.bench.goals import goals_of
from viewmill.tools.bench.result import read_result
from viewmill.tools.bench.turns import Trained, calmest
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

JOB = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.slow
def test_changes_are_predicted_made_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("viewmill.tools.doctor.loader_alone.LEAST_IMAGES", 4)
    settings = ("model.backbone=test_resnet", "views.preset=hydes@32", "batch_size=4")
    small = {"small": Scenario(settings, ("resolution", "batch"))}
    monkeypatch.setattr("viewmill.tools.bench.doctor.SCENARIOS", small)
    (tmp_path / "source").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "source" / f"{number}.jpg")
    convert(tmp_path / "source", tmp_path / "data", workers=1)
    overrides = ["views.executor=reference", "method.projector.hidden=16", "method.projector.dim=8"]
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "doctor.json")]
    words += ["--steps=1", "--repeats=1", "--rounds=1", "--profile-steps=1"]
    words += [f"--set={setting}" for setting in overrides]
    assert run_app(app, ["bench", "doctor", *words]) == 0
    result = read_result(tmp_path / "doctor.json")
    changes, profiles = result.figures["changes"], result.figures["profiles"]
    assert [row["kind"] for row in changes.values()] == ["resolution", "batch"]
    assert list(changes)[1] == "small: batch_size=8"
    assert all(one["measured"] > 0 and len(one["errors"]) == 2 for one in changes.values())
    assert list(profiles) == ["small, before", "small, after"]
    assert all(row["step_ms"] > 0 for row in profiles.values())
    asked = goals_of("doctor", result.figures, result.settings)
    assert len(asked) == 2 * len(changes) + len(profiles)
    assert [chart.title for chart in charts_of(result, "doctor")][1].startswith("Measured images/s")
    assert str(tmp_path) not in (tmp_path / "doctor.json").read_text()
    with (console := Console(width=200)).capture() as capture:
        console.print(tables(result.figures))
    assert "batch_size=8" in capture.get()


def turn(other_work: float = 0.0, **images_per_s: float) -> dict[str, Trained]:
    return {name.replace("_", " "): Trained(value, other_work) for name, value in images_per_s.items()}


def test_a_share_is_the_median_ratio_of_a_turn_and_the_worst_profile_is_judged() -> None:
    profiles = [
        {"changes": [{"name": "a", "setting": "a", "gain": gain}, {"name": "b", "setting": "b", "gain": 3.0}]}
        for gain in (0.5, 0.8)
    ]
    turns = [turn(as_it_is=10.0, a=14.0), turn(as_it_is=20.0, a=30.0), turn(as_it_is=5.0, a=8.0)]
    found = comparisons(profiles, turns)["a"]
    assert found["measured"] == pytest.approx(1.5)
    assert found["measured_range"] == pytest.approx([1.4, 1.6])
    assert found["errors"] == pytest.approx([0.0, 0.2])
    assert found["error"] == pytest.approx(0.2)
    assert found["gain_error"] == pytest.approx(0.6)  # 80 % where 50 % were measured


def test_goals_are_asked_of_images_gains_and_steps() -> None:
    changes = {"a": {"error": 0.1, "gain_error": 0.3}}
    figures = {"changes": changes, "profiles": {"before": {"unexplained": -0.11}}}
    assert [goal.met for goal in goals_of("doctor", figures, {})] == [True, False, False]


def test_turns_beside_other_work_are_left_out_whatever_they_gave() -> None:
    turns = [turn(0.1, a=1.0), turn(0.9, a=2.0), turn(0.0, a=3.0)]
    turns[0]["b"] = Trained(1.0, 0.2)
    assert calmest(turns, 2) == [turns[0], turns[2]]
    assert calmest(turns, 1) == [turns[2]]


def test_the_runs_that_are_measured_are_ones_that_can_be() -> None:
    configs = {name: config_of(scenario, ["epochs=2"]) for name, scenario in SCENARIOS.items()}
    assert {name: config.batch_size for name, config in configs.items()} == {"views": 64, "steps": 2}
    assert all(config.epochs == 2 and config.views.num_threads == 1 for config in configs.values())
    kinds = {kind for scenario in SCENARIOS.values() for kind in scenario.kinds}
    assert kinds == {"threads", "resolution", "batch"}


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        run("DATASET", Sizes(steps=0))
