"""`viewmill preflight` as it is started: alone, under torchrun, and over ssh."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from viewmill.engine.config import load_config
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.preflight import before_training, meeting
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight_command import wanted_by, words_of
from viewmill.tools.train import fit_to_train

from tests.tools.preflight.ranks import bad_hosts, free_port, lines_of
from tests.tools.test_launchers import PYTHON, launch, write_images
from tests.tools.test_launchers import this_process as this_process

# Stands where ssh does: the host "down" cannot be reached, the command of any other runs here.
SHELL = """#!/bin/sh
if [ "$1" = down ]; then echo "connect to host down: no route" >&2; exit 255; fi
shift
exec sh -c "$*"
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("preflight")
    write_images(root / "source", count=6, seed=0)
    convert(root / "source", root / "ds")
    return root / "ds"


@pytest.mark.usefixtures("this_process")
def test_alone_it_tells_of_a_shard_that_is_cut_short(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preflight", "--data", str(dataset), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert run_app(app, [*words, "--json"]) in (0, 3)  # by what else this machine lacks
    whole = json.loads(capsys.readouterr().out)
    assert [line["status"] for line in lines_of(whole, "data set")] == ["pass"]
    shard = next(dataset.glob("*.tar"))
    data = shard.read_bytes()
    try:
        shard.write_bytes(data[:-512])
        assert run_app(app, words) == 3
    finally:
        shard.write_bytes(data)
    shown = " ".join(capsys.readouterr().out.split())
    assert shard.name in shown
    assert "fail" in shown


@pytest.mark.usefixtures("this_process")
def test_a_data_set_that_is_not_there_fails_its_check_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preflight", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert run_app(app, [*words, "--json"]) == 3
    report = json.loads(capsys.readouterr().out)
    (line,) = lines_of(report, "data set")
    assert "no data set here" in line["found"]
    assert [line["status"] for line in lines_of(report, "versions")] == ["pass"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "epochs=1"], "give --recipe RECIPE as well"),
        (["--recipe", "hydes_tinny"], "hydes_tiny"),
        (["--hosts", "nowhere"], "nowhere: no host file here"),
        (["--out", "s3://bucket/run"], "a URL"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], this_process: None
) -> None:
    assert run_app(app, ["preflight", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_the_recipe_says_on_which_device_unless_the_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert wanted_by("hydes_tiny", ["device=cpu"])["device"] == "cpu"
    assert "device" not in wanted_by(None, [])
    words = words_of(Options(device="cpu"))
    assert words[words.index("--device") + 1] == "cpu"  # as the ranks on other hosts are told
    assert run_app(app, ["preflight", "--device", "gpu"]) == 2
    assert "'auto', 'cpu' or 'cuda'" in capsys.readouterr().err


def test_a_training_tells_its_preflight_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Options] = []
    monkeypatch.setattr(before_training, "are_fit", lambda options, *_: told.append(options))
    monkeypatch.setattr(meeting, "open_meeting", lambda patience_s: None)
    for device in ("auto", "cpu"):
        with pytest.raises(typer.Exit):
            fit_to_train(load_config("hydes_tiny", [f"device={device}"]), "data", tmp_path)
    assert [options.device for options in told] == ["auto", "cpu"]


@pytest.mark.slow
def test_torchrun_starts_two_ranks_that_tell_once(dataset: Path, tmp_path: Path) -> None:
    words = [*PYTHON, "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    words += ["-m", "viewmill.tools.preflight_command", "--data", str(dataset), "--threads", "1", "--json"]
    done = launch([*words, "--out", str(tmp_path / "run")])
    report = json.loads(done.stdout)
    assert report["world_size"] == len(report["hosts"]) == 2
    assert report["facts"]["1"]["all-reduce"]["ranks"] == 2
    assert (done.returncode == 0) == (report["status"] != "fail"), done.stderr


@pytest.mark.slow
def test_a_host_that_ssh_does_not_reach_is_named_and_the_others_are_checked(
    dataset: Path, tmp_path: Path
) -> None:
    shell, hosts = tmp_path / "shell", tmp_path / "hosts"
    shell.write_text(SHELL)
    shell.chmod(0o755)
    hosts.write_text("127.0.0.1 slots=1\ndown slots=2\nlocalhost slots=1\n")
    words = [sys.executable, "-m", "viewmill.tools.cli", "preflight", "--json", "--threads", "1"]
    words += ["--hosts", str(hosts), "--ssh", str(shell), "--port", free_port(), "--data", str(dataset)]
    done: subprocess.CompletedProcess[str] = launch(words)
    assert done.returncode == 3, done.stderr
    report = json.loads(done.stdout)
    assert bad_hosts(report, "ssh") == {"down"}
    assert [line["found"] for line in lines_of(report, "ssh")] == ["connect to host down: no route"]
    assert report["world_size"] == len(report["hosts"]) == 2
    assert [line["status"] for line in lines_of(report, "data set")] == ["pass"]
