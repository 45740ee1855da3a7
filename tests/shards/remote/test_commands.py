"""URLs on the command line: convert from one, train from one."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.shards.pictures import tree_hashes, write_tree
from tests.shards.remote.faulty_proxy import FaultyProxy
from tests.shards.remote.servers import upload


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    """Exit code, the JSON on stdout, the text on stderr."""
    code = run_app(app, [*map(str, words), "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out) if captured.out else None, captured.err


def test_a_url_is_a_source(tmp_path: Path, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]) -> None:
    url = upload(proxy.upstream_port, write_tree(tmp_path / "tree"), "command")
    convert(tmp_path / "tree", tmp_path / "here")
    code, report, _ = run(capsys, "convert", url, tmp_path / "there", "--workers", 1)
    assert (code, report["quarantined"]) == (0, 2)
    assert tree_hashes(tmp_path / "there") == tree_hashes(tmp_path / "here")


def test_wrong_urls_are_wrong_usage_and_a_silent_store_is_a_failure(
    tmp_path: Path, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in ("pipe:cat x", "s3://pictures/absent"):
        code, _, told = run(capsys, "convert", source, tmp_path / "out", "--workers", 1)
        assert (code, len(told.strip().splitlines())) == (2, 1)
    proxy.begin("unavailable")
    code, _, told = run(capsys, "convert", "s3://pictures/x", tmp_path / "out", "--workers", 1)
    assert (code, len(told.strip().splitlines())) == (1, 1)
    assert "s3://pictures/x" in told
    assert "no good answer in 4 tries" in told


def test_training_wants_a_data_set_at_the_url(
    tmp_path: Path, proxy: FaultyProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("train", "hydes_tiny", "--data", "s3://pictures/absent", "--out", tmp_path / "run")
    code, _, told = run(capsys, *words)
    assert code == 2
    assert "s3://pictures/absent: no data set here" in told


@pytest.mark.slow  # torch, deepspeed and two short trainings
def test_training_from_a_url_is_training_from_the_disk(
    tmp_path: Path, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIEWMILL_CACHE", str(tmp_path / "cache"))
    convert(write_tree(tmp_path / "tree", per_class=8), tmp_path / "data")
    url = upload(proxy.upstream_port, tmp_path / "data", "training")
    losses = []
    for data in (tmp_path / "data", url):
        out = tmp_path / f"run{len(losses)}"
        settings = ("epochs=1", "batch_size=8", "model.backbone=test_resnet", "views.preset=hydes@32")
        code, _, told = run(capsys, "train", "hydes_tiny", *settings, "--data", data, "--out", out)
        assert code == 0, told
        lines = (out / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if "loss" in json.loads(line)])
    assert losses[0]
    assert losses[0] == losses[1]
