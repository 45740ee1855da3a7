"""A tiny training, as people start it: viewmill train, torchrun and deepspeed, on the CPU."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.commands import viewmill_on_a_rank
from tests.support import run_ranks
from tests.tools.launching import JOB, PYTHON, SETTINGS, launch, port

pytestmark = pytest.mark.slow


def arguments(dataset: Path, run: Path, *overrides: str) -> list[str]:
    return ["hydes_tiny", "--data", str(dataset), "--out", str(run), *SETTINGS, *overrides]


def write_images(folder: Path, count: int, seed: int) -> None:
    for number in range(count):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng([seed, number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"class{number % 2}" / f"{number}.jpg")


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in the process of the tests finds itself alone, and leaves no variable behind."""
    for name, value in zip(JOB, ("0", "1", "0", "127.0.0.1", "29500", "lo"), strict=True):
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launchers")
    write_images(root / "source", count=20, seed=0)
    convert(root / "source", root / "ds")
    return root / "ds"


@pytest.fixture(scope="module")
def alone(dataset: Path) -> Path:
    """The run of one process, which the others are compared with."""
    run = dataset.parent / "alone"
    done = launch([*PYTHON, "viewmill.tools.cli", "train", *arguments(dataset, run), "--json"])
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)  # nothing but the result may stand on stdout
    assert (last["run"], last["step"]) == (str(run), 2)
    return run


def test_viewmill_train_leaves_a_trained_backbone(alone: Path) -> None:
    assert len(losses(alone)) == 2
    for name in ("config.yaml", "environment.json", "events.jsonl", "export/backbone.safetensors"):
        assert (alone / name).stat().st_size > 0


def test_torchrun_trains_the_same_run_on_two_ranks(dataset: Path, alone: Path, tmp_path: Path) -> None:
    launcher = [*PYTHON, "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port(), "-m"]
    done = launch([*launcher, "viewmill.tools.train", *arguments(dataset, tmp_path / "run")])
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["world_size"] == 2
    # The first step has the same weights; sums of float32 in another order.
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(alone)[0], rel=1e-4)


def test_the_deepspeed_launcher_trains_the_same_run_on_two_ranks(
    dataset: Path, alone: Path, tmp_path: Path
) -> None:
    launcher = [*PYTHON, "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", port(), "--module"]
    done = launch([*launcher, "viewmill.tools.train", *arguments(dataset, tmp_path / "run", "zero.stage=2")])
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["world_size"] == 2
    assert losses(tmp_path / "run")[0] == pytest.approx(losses(alone)[0], rel=1e-4)


def test_ranks_that_do_not_divide_the_batch_are_refused_by_every_rank(dataset: Path, tmp_path: Path) -> None:
    words = ["train", *arguments(dataset, tmp_path / "run", "batch_size=9")]
    for rank, (code, told) in enumerate(run_ranks(2, viewmill_on_a_rank, words)):
        assert code == 2
        (line,) = told.splitlines()
        assert line.startswith(f"[rank {rank}] error: batch_size=9")
        assert "is not a multiple of 2 ranks" in line
        assert "set batch_size=8 or 10" in line
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_was_cut_short_is_named_and_not_resumed(
    dataset: Path, alone: Path, tmp_path: Path, this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    (checkpoint,) = (commit.parent for commit in (run / "checkpoints").glob("*/COMMIT"))
    largest = max(checkpoint.iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    assert run_app(app, ["train", *arguments(dataset, run, "epochs=2"), "--resume"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"{checkpoint.name}/{largest.name}" in line
    assert "restore the folder from a copy" in line
    assert len(losses(run)) == 2  # nothing was trained


def test_a_finished_run_goes_on_with_resume_and_more_epochs(
    dataset: Path, alone: Path, tmp_path: Path, this_process: None
) -> None:
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    assert run_app(app, ["train", *arguments(dataset, run, "epochs=2"), "--resume"]) == 0
    assert len(losses(run)) == 4


def test_a_run_is_evaluated_and_reported(
    dataset: Path, alone: Path, tmp_path: Path, this_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(alone, run)
    write_images(tmp_path / "source", count=10, seed=1)
    convert(tmp_path / "source", tmp_path / "test")
    options = ["--train", str(dataset), "--on", str(tmp_path / "test"), "--tasks", "knn@5,linear", "--json"]
    assert run_app(app, ["evaluate", str(run), *options]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert entries == json.loads((run / "evaluation" / "summary.json").read_text())
    assert [entry["n"] for entry in entries] == [10, 10]
    assert run_app(app, ["report", str(run), "--data", str(dataset)]) == 0
    page = (run / "report.html").read_text()
    assert all(f'<td class="whole">{entry["task"]}</td>' in page for entry in entries)
    assert "data:image/png;base64," in page
