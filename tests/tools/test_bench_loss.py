"""`bench loss` measures both peers in processes of their own and keeps what it found."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.bench import loss
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

PLAIN_BYTES = 8 * 2048**2  # two float32 arrays of the whole kernel: the least that autograd keeps


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return loss.run(vectors=2048, dim=16, repeats=1, threads=1)


@pytest.mark.slow
def test_both_peers_are_measured_and_compute_the_same(result: dict[str, Any]) -> None:
    assert set(result["peers"]) == {"viewmill", "whole kernel"}
    assert all(figures["seconds"] > 0 for figures in result["peers"].values())
    assert result["largest_gradient_difference"] < 1e-4
    assert result["ratios"]["speed"] == pytest.approx(
        result["peers"]["whole kernel"]["seconds"] / result["peers"]["viewmill"]["seconds"]
    )


@pytest.mark.slow
def test_the_whole_kernel_shows_in_the_memory_of_the_plain_formula(result: dict[str, Any]) -> None:
    assert result["peers"]["whole kernel"]["extra_mib"] * loss.MIB > PLAIN_BYTES


@pytest.mark.slow
def test_the_command_shows_and_keeps_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--vectors", "64", "--dim", "8", "--views", "4", "--repeats", "1", "--threads", "1"]
    out = tmp_path / "loss.json"
    assert run_app(app, ["bench", "loss", *settings, "--out", str(out)]) == 0
    assert "whole kernel" in capsys.readouterr().out
    kept = json.loads(out.read_text())
    assert kept["settings"] == {"vectors": 64, "dim": 8, "views": 4, "kappa": 10.0, "threads": 1}


@pytest.mark.parametrize("wrong", [{"vectors": 17}, {"views": 1}, {"repeats": 0}, {"vectors": 8}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be a multiple of the views"):
        loss.run(**wrong)
