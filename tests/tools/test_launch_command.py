"""`viewmill launch`: what it explains and writes, what it refuses, and runs that it ends or lets go on."""

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.launch import local
from viewmill.tools.launch.asked import environment_of_ranks, gpus_here, size_of_job
from viewmill.tools.launch_command import EXAMPLE

from tests.launched import Launched
from tests.tools.test_cli import refused
from tests.tools.test_launchers import SETTINGS, losses, write_images


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("launch")
    write_images(root / "source", count=20, seed=0)
    convert(root / "source", root / "ds", workers=1)
    return root / "ds"


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    path = tmp_path / "hosts"
    path.write_text("h1 slots=2\nh2 slots=2\n")
    return path


def words_of(dataset: Path, run: Path, *words: str) -> list[str]:
    return ["launch", "hydes_tiny", "--data", str(dataset), "--out", str(run), *SETTINGS, *words]


def test_the_example_explains_a_launch_and_touches_nothing(
    dataset: Path, hosts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"DATASET": str(dataset), "RUN": str(tmp_path / "run"), "hosts": str(hosts)}
    words = [places.get(word, word) for word in EXAMPLE.split()[1:]]
    assert run_app(app, words) == 0
    shown = capsys.readouterr().out
    for expected in ("torch.distributed.run", "rank 3: h2, local rank 1", "OMP_NUM_THREADS=", "ServerAlive"):
        assert expected in shown
    assert not (tmp_path / "run").exists()


def test_a_plan_is_json_for_programs(
    dataset: Path, hosts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(dataset, tmp_path / "run", "--on", "ssh", "--hosts", str(hosts), "--env", "A=b c")
    assert run_app(app, [*words, "--explain", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["world_size"] == 4
    assert [rank["host"] for rank in plan["ranks"]] == ["h1", "h1", "h2", "h2"]
    assert plan["env"]["A"] == "b c"
    assert " --preflight" in plan["files"]["ranks.sh"]  # several hosts look before they train
    assert len(plan["commands"]) == len(plan["checks"]) == 2


def test_several_hosts_look_at_their_machines_first_unless_told_otherwise(
    dataset: Path, hosts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--on", "ssh", "--hosts", str(hosts)]
    for words, expected in (([*there, "--no-preflight"], False), (["--preflight"], True), ([], False)):
        assert run_app(app, [*words_of(dataset, tmp_path / "run", *words), "--explain", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert (" --preflight" in plan["files"]["ranks.sh"]) == expected, words


def test_a_dry_run_writes_what_launch_sh_starts(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert run_app(app, [*words_of(dataset, run), "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    names = ["commands.json", "launch.sh", "lease.sh", "ranks.sh"]
    assert [Path(path).name for path in told["files"]] == names
    assert os.access(run / "launch" / "launch.sh", os.X_OK)
    assert run_app(app, [*words_of(dataset, run), "--dry-run"]) == 0  # a folder of scripts alone is free


def test_what_a_dry_run_names_can_be_typed(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "a run; of $mine"
    assert run_app(app, [*words_of(dataset, run), "--dry-run"]) == 0
    typed = capsys.readouterr().out.partition("start it with: ")[2]
    assert shlex.split(typed) == ["bash", f"{run}/launch/launch.sh"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--on", "slrum"], "--on slrum: no such target; choose one of local"),
        (["--hosts", "hosts"], "hosts is no option of --on local; it has none"),
        (["--on", "ssh"], "pass --hosts FILE"),
        (["--on", "ssh", "--hosts", "nowhere"], "nowhere: no host file here"),
        (["--ranks-per-node", "3"], "batch_size=8 is not a multiple of 3 ranks"),
        (["--resume"], "holds no run to resume"),
        (
            ["--env", "NOBODY_HAS_SET_THIS"],
            "this shell has no such variable; pass --env NOBODY_HAS_SET_THIS=",
        ),
        (["--option", "silence_s"], "expected key=value"),
        (["epochss=3"], "epochss is no setting; the nearest is epochs"),
        (["--judge", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_launched_is_refused_in_one_line(
    words: list[str], expected: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refused(words_of(dataset, tmp_path / "run", *words), capsys)
    assert code == 2
    assert expected in line
    assert not (tmp_path / "run").exists()


KUBERNETES = ["--on", "k8s", "--image", "i", "--volume", "all:/", "--nodes", "4", "--gpus", "8"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["batch_size=48"],
            "batch_size=48 is not a multiple of 32 ranks x accumulation 1; set batch_size=32 or",
        ),
        (["--sweep", "batch_size=64,48"], "batch_size=48 is not a multiple of 32 ranks"),
        (
            ["batch_size=320", "--option", "min_nodes=2"],
            "batch_size=320 is not a multiple of 3 nodes x 8 ranks x accumulation 1, and min_nodes=2 lets 2 "
            "to 4 nodes train; set batch_size=288 or 384",
        ),
        (
            ["batch_size=32", "--option", "min_nodes=3"],
            "is not a multiple of 3 nodes x 8 ranks x accumulation 1",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_batch_that_does_not_suit_the_pods_is_refused_before_the_manifest(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = ["launch", "hydes_tiny", "--data", "/data", "--out", "/runs/first", *KUBERNETES, *words]
    code, line = refused([*given, "--dry-run"], capsys)
    assert (code, expected in line) == (2, True), line
    assert not list(tmp_path.iterdir())
    suits = ["batch_size=384", "--option", "min_nodes=2", "--explain"]
    assert run_app(app, [*given[: -len(words)], *suits]) == 0


def test_a_folder_in_use_is_refused_before_any_rank_starts(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    code, line = refused(words_of(dataset, tmp_path / "run"), capsys)
    assert code == 2
    assert "is not empty; pass --resume" in line
    assert not (tmp_path / "run" / "launch").exists()


def test_ranks_are_given_what_says_how_they_talk_and_compute() -> None:
    shell = {"NCCL_DEBUG": "INFO", "HOME": "/root", "OMP_NUM_THREADS": "3", "RANK": "7", "TOKEN": "x"}
    env = environment_of_ranks(["TOKEN", "NCCL_DEBUG=WARN"], shell)
    assert env == {"NCCL_DEBUG": "WARN", "OMP_NUM_THREADS": "3", "TOKEN": "x"}
    assert environment_of_ranks([], {}) == {"OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize(
    ("target", "expected"),
    [("local", "2,3"), ("ssh", "2,3"), ("mpi", "2,3"), ("slurm", None), ("k8s", None)],
)
def test_the_gpus_that_a_shell_shows_are_shown_on_every_host_unless_a_queue_chooses(
    target: str, expected: str | None, dataset: Path, hosts: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    options = {"ssh": ["--hosts", str(hosts)], "mpi": ["--hosts", str(hosts)], "k8s": KUBERNETES[2:]}
    words = words_of(dataset, tmp_path / "run", "--on", target, *options.get(target, []), "batch_size=32")
    assert run_app(app, [*words, "--explain", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["env"].get("CUDA_VISIBLE_DEVICES") == expected


def test_the_gpus_of_one_host_are_no_gpus_of_several(
    dataset: Path, hosts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2a,GPU-77b1")
    words = words_of(dataset, tmp_path / "run", "--explain")
    code, line = refused([*words, "--on", "ssh", "--hosts", str(hosts)], capsys)
    assert code == 2
    assert "CUDA_VISIBLE_DEVICES=GPU-8f2a,GPU-77b1 names GPUs of one host, and the job has 2" in line
    assert run_app(app, words) == 0


def test_a_training_on_the_cpu_is_one_rank_whatever_gpus_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    sizes = [size_of_job(local.Options(), None, None, device) for device in ("auto", "cuda", "cpu")]
    assert sizes == [(1, 4), (1, 4), (1, 1)]
    assert size_of_job(local.Options(), None, 3, "cpu") == (1, 3)


def test_gpus_that_are_hidden_do_not_count() -> None:
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "0,3"}) == 2
    assert gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == gpus_here({"CUDA_VISIBLE_DEVICES": "-1"}) == 0


@pytest.mark.slow
def test_a_preempted_launch_is_requeued_and_goes_on(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = words_of(dataset, run, "--ranks-per-node", "1", "epochs=20", "checkpoint.every_steps=1")
    first = Launched(words, tmp_path / "told")
    first.wait_for_steps(run, 1)
    first.process.send_signal(signal.SIGUSR1)
    assert first.end() == 85, first.told()
    assert "stopped by a signal and saved; go on with the same command and --resume" in first.told()
    assert json.loads((run / "requeue.json").read_text())["signal"] == "SIGUSR1"
    assert len(losses(run)) < 40
    again = Launched([*words, "--resume"], tmp_path / "again")
    assert again.end() == 0, again.told()
    assert len(losses(run)) == 40


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun: apt-get install openmpi-bin")
def test_mpirun_trains_two_ranks(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["--on", "mpi", "--ranks-per-node", "2", "--preflight"]
    launched = Launched(words_of(dataset, run, *words), tmp_path / "told")
    assert launched.end() == 0, launched.told()
    assert "2 ranks on 1 host" in launched.told()  # the preflight's last line
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert len(losses(run)) == 2
