"""`bench doctor` at the smallest size: predictions beside what real runs give."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from viewmill.shards.convert import convert
from viewmill.tools.bench.doctor import comparisons, run, table
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

JOB = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.slow
def test_changes_are_predicted_made_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in JOB.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("viewmill.tools.doctor.loader_alone.LEAST_IMAGES", 4)
    (tmp_path / "source").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "source" / f"{number}.jpg")
    convert(tmp_path / "source", tmp_path / "data", workers=1)
    small = ["batch_size=4", "views.executor=reference"]
    small += ["method.projector.hidden=16", "method.projector.dim=8"]
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "doctor.json")]
    words += ["--steps=1", "--repeats=1", "--rounds=1", "--profile-steps=1"]
    words += [f"--set={setting}" for setting in small]
    assert run_app(app, ["bench", "doctor", *words]) == 0
    result = json.loads((tmp_path / "doctor.json").read_text())
    views, steps = (result["scenarios"][name] for name in ("views", "steps"))
    settings = [one["setting"] for one in views["changes"]]
    assert any(setting.startswith("convert --resize short=") for setting in settings)
    assert [one["setting"] for one in steps["changes"]] == ["batch_size=8"]
    assert len(steps["profiles"]) == 2
    changes = views["changes"] + steps["changes"]
    assert all(one["measured"] > 0 and len(one["errors"]) == 2 for one in changes)
    assert str(tmp_path) not in (tmp_path / "doctor.json").read_text()
    with (console := Console(width=200)).capture() as capture:
        console.print(table(result))
    assert "batch_size=8" in capture.get()


def test_a_gain_is_the_median_ratio_of_a_turn() -> None:
    profile = {"changes": [{"setting": "a=1", "gain": 0.5}, {"setting": "b=2", "gain": 3.0}]}
    turns = [{"as it is": 10.0, "a=1": 14.0}, {"as it is": 20.0, "a=1": 30.0}, {"as it is": 5.0, "a=1": 8.0}]
    (found,) = comparisons([profile, profile], turns)
    assert found["measured"] == pytest.approx(1.5)
    assert found["measured_range"] == pytest.approx([1.4, 1.6])
    assert found["errors"] == pytest.approx([0.0, 0.0])


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="0 steps"):
        run("DATASET", steps=0)
