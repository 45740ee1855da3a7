"""What W&B and MLflow are told of a run, and of one that is resumed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.engine.config import ConfigError, RunConfig, load_config
from viewmill.engine.telemetry import read_lines
from viewmill.engine.trackers.mlflow_run import allowed
from viewmill.engine.trackers.service import Outcome
from viewmill.engine.trackers.start import check_trackers, start_trackers
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.tiny import metrics, tiny_config, tiny_data_set
from tests.engine.trackers.services import fake_mlflow, fake_wandb


def config_with(**trackers: Any) -> RunConfig:
    return tiny_config(log={"every_steps": 1, "tensorboard": False} | trackers)


def session(config: RunConfig, run_dir: Path, outcome: Outcome = "finished") -> None:
    """A session that logs one line."""
    run_dir.mkdir(exist_ok=True)
    for tracker in start_trackers(config, run_dir):
        tracker.send({"step": 3, "loss": 0.5, "evaluation/knn@20": 0.25})
        tracker.end(outcome)
        assert tracker.news() is None


def test_wandb_is_told_the_settings_the_lines_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, config = fake_wandb(monkeypatch), config_with(wandb={"project": "p", "entity": "team"})
    session(config, tmp_path / "first")
    (init,) = fake.inits
    assert (init["project"], init["entity"], init["name"]) == ("p", "team", "first")
    assert (init["resume"], init["dir"]) == ("allow", str(tmp_path / "first" / "trackers"))
    assert init["config"] == config.model_dump(mode="json")
    assert init["settings"] == {"console": "off", "login_timeout": 30}
    assert fake.calls == [
        ("define_metric", "step", None),
        ("define_metric", "*", "step"),
        ("log", {"step": 3, "loss": 0.5, "evaluation/knn@20": 0.25}),
        ("finish", 0),
    ]


def test_wandb_goes_on_with_the_same_run_after_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, config = fake_wandb(monkeypatch), config_with(wandb={"project": "p", "name": "n"})
    session(config, tmp_path / "run", "stopped")
    assert fake.calls[-2:] == [("mark_preempting",), ("finish", 1)]
    session(config, tmp_path / "run")
    session(config, tmp_path / "other")
    first, resumed, other = (init["id"] for init in fake.inits)
    assert first == resumed != other
    assert fake.inits[0]["name"] == "n"


def test_mlflow_is_told_the_settings_the_lines_and_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fake_mlflow(monkeypatch)
    session(config_with(mlflow={"experiment": "e", "tracking_uri": "file:store"}), tmp_path / "run")
    assert (fake.uris, fake.names, list(fake.experiments)) == (["file:store"], ["run"], ["e"])
    assert {param.key: param.value for param in fake.params}["optimizer.lr"] == "0.001"
    assert [(one.key, one.value, one.step) for one in fake.metrics] == [
        ("loss", 0.5, 3),
        ("evaluation/knn_20", 0.25, 3),
    ]
    assert fake.statuses == [("run 1", "FINISHED")]


def test_mlflow_goes_on_with_the_same_run_after_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, config = fake_mlflow(monkeypatch), config_with(mlflow={"experiment": "e"})
    session(config, tmp_path / "run", "stopped")
    settings = len(fake.params)
    session(config, tmp_path / "run", "failed")
    assert fake.names == ["run"]
    assert len(fake.params) == settings  # MLflow refuses to change them
    assert fake.statuses == [("run 1", "KILLED"), ("run 1", "RUNNING"), ("run 1", "FAILED")]


def test_a_name_keeps_what_mlflow_takes() -> None:
    assert allowed("evaluation/knn@20") == "evaluation/knn_20"
    assert allowed("grad norm-1.0") == "grad norm-1.0"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_library_that_is_missing_is_named_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    config = config_with(**{name: {"project": "p"} if name == "wandb" else {"experiment": "e"}})
    with pytest.raises(ImportError, match=rf"log\.{name} needs .* pip install 'viewmill\[{name}\]'"):
        check_trackers(config)
    check_trackers(config_with())


def test_a_tracker_without_a_project_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"log\.wandb\.project is missing"):
        load_config("hydes_tiny", ["log.wandb.entity=team"])


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    threads = torch.get_num_threads()
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_resumed_training_is_one_run_at_the_service(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, data = fake_wandb(monkeypatch), tiny_data_set(tmp_path, count=8)
    config = config_with(wandb={"project": "p"})
    train(config.model_copy(update={"max_steps": 2}), data, tmp_path / "run", world=world)
    train(config, data, tmp_path / "run", resume=True, world=world)
    assert len({init["id"] for init in fake.inits}) == 1
    lines = [call[1] for call in fake.calls if call[0] == "log"]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in lines] == [line["loss"] for line in metrics(tmp_path / "run")]
    assert set(lines[-1]) == set(read_lines(tmp_path / "run" / "metrics.jsonl")[-1])
