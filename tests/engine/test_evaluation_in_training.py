"""Evaluation while training: it says what `evaluate` says, changes nothing, and the best checkpoint stays."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.evaluation.evaluate import evaluate
from viewmill.engine.evaluation.in_training import Best, better
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.shards.manifest import Dataset

from tests.engine.tiny import tiny_config, tiny_data_set

TASKS = ["knn@5", "linear"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("data")
    return [tiny_data_set(folder / "train", 26), tiny_data_set(folder / "test", 40, 1000)]


def settings(**changes: Any) -> RunConfig:
    own = {"evaluation": {"tasks": TASKS}, "checkpoint": {"every_epochs": None, "keep": 4}}
    return tiny_config(**(own | changes))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, data: list[Path], world: World) -> Path:
    """A run of 4 epochs of 3 steps, judged after each of them."""
    run_dir = tmp_path_factory.mktemp("judged") / "run"
    train(settings(), data[0], run_dir, on=data[1], world=world)
    return run_dir


def verdicts(run_dir: Path) -> list[dict[str, Any]]:
    return [line for line in read_lines(run_dir / "events.jsonl") if line["event"] == "evaluation"]


@pytest.mark.slow
def test_it_says_what_evaluate_says_of_the_checkpoint_of_that_step(
    judged: Path, data: list[Path], world: World, tmp_path: Path
) -> None:
    assert [line["step"] for line in verdicts(judged)] == [3, 6, 9, 12]
    with Dataset.open(data[0]) as bank, Dataset.open(data[1]) as test:
        for line in verdicts(judged):
            path = judged / "checkpoints" / f"step_{line['step']:08d}"
            found = evaluate(path, bank, test, TASKS, world=world, out=tmp_path / path.name)
            assert {row["task"]: row["trained"] for row in found} == {task: line[task] for task in TASKS}


@pytest.mark.slow
def test_training_is_the_same_bit_for_bit_as_without(
    judged: Path, data: list[Path], world: World, tmp_path: Path
) -> None:
    train(settings(), data[0], tmp_path / "run", world=world)
    ours, theirs = (load_file(run / "export" / "backbone.safetensors") for run in (judged, tmp_path / "run"))
    assert all(map(torch.equal, ours.values(), theirs.values()))
    assert not verdicts(tmp_path / "run")


@pytest.mark.slow
def test_the_best_checkpoint_is_named_and_stays(data: list[Path], world: World, tmp_path: Path) -> None:
    train(settings(checkpoint={"every_steps": 1, "keep": 1}), data[0], tmp_path, on=data[1], world=world)
    scores = {line["step"]: line["knn@5"] for line in verdicts(tmp_path)}
    best = max(scores, key=lambda step: (scores[step], -step))
    folder = tmp_path / "checkpoints"
    assert (folder / "best").read_text() == f"step_{best:08d}\n"
    assert {path.name for path in folder.glob("step_*")} == {f"step_{best:08d}", "step_00000012"}
    assert verdicts(tmp_path)[-1]["best"] == best


@pytest.mark.slow
def test_a_resumed_run_remembers_the_best(
    judged: Path, data: list[Path], world: World, tmp_path: Path
) -> None:
    train(settings(max_steps=6), data[0], tmp_path / "run", on=data[1], world=world)
    train(settings(), data[0], tmp_path / "run", on=data[1], resume=True, world=world)
    clocked = {"seconds", "time"}
    ours, theirs = (
        [{name: value for name, value in line.items() if name not in clocked} for line in verdicts(run)]
        for run in (tmp_path / "run", judged)
    )
    assert ours == theirs
    assert newest(tmp_path / "run" / "checkpoints")[0].name == "step_00000012"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "message"),
    [(["knn@500"], "evaluation: knn@500 needs 500 training images"), (["top1"], "unknown task 'top1'")],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    data: list[Path], world: World, tmp_path: Path, tasks: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(settings(evaluation={"tasks": tasks}), data[0], tmp_path / "r", on=data[1], world=world)
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_the_images_that_are_trained_on_judge_nothing(data: list[Path], world: World, tmp_path: Path) -> None:
    shutil.copytree(data[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match="hold the same images"):
        train(settings(), data[0], tmp_path / "r", on=tmp_path / "copy", world=world)


def test_of_equal_ones_the_first_is_the_best() -> None:
    best = better(None, 3, {"knn@20": 0.5, "linear": 0.9})
    assert best == Best(3, "knn@20", 0.5)
    assert better(best, 6, {"knn@20": 0.5, "linear": 1.0}) is best
    assert better(best, 9, {"knn@20": 0.6, "linear": 0.1}) == Best(9, "knn@20", 0.6)
