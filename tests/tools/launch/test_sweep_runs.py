"""A sweep on this machine: what it explains and refuses, and runs in turn of which one fails."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.local import Options as LocalOptions
from viewmill.tools.launch.sweep_launch import Sweep, tell_results
from viewmill.tools.launch.targets import Target
from viewmill.tools.launch.written import Command, Written

from tests.tools.test_cli import refused
from tests.tools.test_launchers import JOB, PYTHON, SETTINGS, write_images

SHARED = [word for word in SETTINGS if not word.startswith("model.backbone")]
GRID = ["--sweep", "model.backbone=no_such_net,test_resnet"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    write_images(root / "source", count=20, seed=0)
    convert(root / "source", root / "ds", workers=1)
    return root / "ds"


def words_of(dataset: Path, out: Path, *words: str) -> list[str]:
    return ["launch", "hydes_tiny", "--data", str(dataset), "--out", str(out), *SHARED, *words]


def launched(*words: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if name not in JOB}
    clean |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    command = [*PYTHON, "viewmill.tools.cli", *words]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False, timeout=240)


def test_every_run_is_explained_and_none_begun(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(
        dataset, tmp_path / "out", *GRID, "--sweep", "optimizer.lr=1e-3,1e-4", "--explain", "--json"
    )
    assert run_app(app, words) == 0
    folders = [Path(plan["folder"]).parent.name for plan in json.loads(capsys.readouterr().out)]
    assert folders == [
        *("backbone=no_such_net,lr=1e-3", "backbone=no_such_net,lr=1e-4"),
        *("backbone=test_resnet,lr=1e-3", "backbone=test_resnet,lr=1e-4"),
    ]
    assert not (tmp_path / "out").exists()


def test_on_slurm_it_is_one_array(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--on", "slurm", "--gpus", "a100:4", "--option", "parallel=1", "--dry-run"]
    assert run_app(app, words_of(dataset, tmp_path / "out", *GRID, *options)) == 0
    text = (tmp_path / "out" / "launch" / "slurm.sh").read_text()
    assert "#SBATCH --array=0-1%1\n" in text
    assert "--nproc-per-node 4" in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--results"], "give its --sweep"),
        (["--sweep", "optimizer.lrr=1,2"], "the nearest is optimizer.lr"),
        (["--sweep", "epochs=1,2"], "epochs is given twice"),
        ([*GRID, "--ranks-per-node", "3"], "batch_size=8 is not a multiple of 3 ranks"),
        (["--partition", "gpu"], "partition is no option of --on local"),
        (["--on", "k8s"], "--on k8s needs image; pass --image"),
        (["--on", "k8s", "--image", "i"], "lies on no volume of the pods"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    words: list[str], told: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(words_of(dataset, tmp_path / "out", *words), capsys)
    assert code == 2
    assert told in line
    assert not (tmp_path / "out").exists()


def sweep_of(folder: Path, written: dict[str, Written]) -> Sweep:
    """Two runs on a target that carries out what is given for the folder of each."""
    target = Target(LocalOptions, lambda job, _: written[Path(job.out).name])
    job = Job("hydes_tiny", str(folder / "data"), str(folder))
    return Sweep(job, ["optimizer.lr=1e-3,1e-4"], target, LocalOptions())


def standing(sweep: Sweep) -> list[tuple[str, int | None]]:
    return [(line["status"], line["exit_code"]) for line in sweep.results()]


def test_a_run_under_way_does_not_stand_as_it_ended_before(tmp_path: Path) -> None:
    files = [tmp_path / f"lr={lr}" / "launch" / "exit_code" for lr in ("1e-3", "1e-4")]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("1\n")
    looks = {file.parents[1].name: Command(["bash", "-c", f"[ ! -e '{file}' ]"]) for file in files}
    sweep = sweep_of(tmp_path, {name: Written({}, [command]) for name, command in looks.items()})
    assert standing(sweep) == [("failed", 1), ("failed", 1)]
    assert sweep.carry_out() == 0
    assert standing(sweep) == [("not begun", 0), ("not begun", 0)]


def test_a_host_that_cannot_take_part_costs_its_run_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = Command(["bash", "-c", "echo 'no route to host' >&2; exit 255"], host="h1")
    written = {
        "lr=1e-3": Written({}, [Command(["true"])], [away]),
        "lr=1e-4": Written({}, [Command(["true"])]),
    }
    sweep = sweep_of(tmp_path, written)
    assert sweep.carry_out() == 1
    tell_results(sweep, as_json=True)
    told = capsys.readouterr()
    first, second = json.loads(told.out)
    assert (first["status"], first["exit_code"]) == ("failed", 1)
    assert first["cause"] == "h1 cannot be reached: no route to host; nothing was started"
    assert second["exit_code"] == 0
    assert f"lr=1e-3 failed with exit code 1: {first['cause']}" in told.err
    written["lr=1e-3"].checks.clear()
    assert sweep.carry_out() == 0
    assert [line["cause"] for line in sweep.results()] == [None, None]


@pytest.mark.slow
def test_a_run_that_fails_stops_no_other_and_the_same_command_passes_over_what_has_finished(
    dataset: Path, tmp_path: Path
) -> None:
    words = words_of(dataset, tmp_path, *GRID, "--json")
    first = launched(*words)
    assert first.returncode == 1, first.stderr
    failed, finished = json.loads(first.stdout)
    assert (failed["status"], failed["exit_code"], failed["step"]) == ("failed", 1, None)
    assert (finished["status"], finished["exit_code"], finished["step"]) == ("finished", 0, 2)
    assert json.loads((tmp_path / "results.json").read_text()) == [failed, finished]
    assert (tmp_path / "results.csv").read_text().count("\n") == 3
    shown = launched(*words, "--explain")
    assert [Path(plan["folder"]).parent.name for plan in json.loads(shown.stdout)] == ["backbone=no_such_net"]
