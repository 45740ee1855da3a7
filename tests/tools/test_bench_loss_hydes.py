"""`bench loss hydes` measures both peers in processes of their own and keeps what it found."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from viewmill.tools.bench import loss_hydes
from viewmill.tools.bench.memory import MIB
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

PLAIN_BYTES = 8 * 2048**2  # two float32 arrays of the whole kernel: the least that autograd keeps


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return loss_hydes.run(vectors=2048, dim=16, repeats=1, threads=1)


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
    assert result["peers"]["whole kernel"]["extra_mib"] * MIB > PLAIN_BYTES


@pytest.mark.slow
def test_the_command_shows_and_keeps_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--vectors", "64", "--dim", "8", "--views", "4", "--repeats", "1", "--threads", "1"]
    out = tmp_path / "loss.json"
    assert run_app(app, ["bench", "loss", "hydes", *settings, "--out", str(out)]) == 0
    assert "whole kernel" in capsys.readouterr().out
    kept = json.loads(out.read_text())
    assert kept["settings"] == {
        "vectors": 64, "dim": 8, "views": 4, "kappa": 10.0, "threads": 1,
        "device": "cpu", "dtype": "float32", "backend": "torch", "repeats": 1,
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"vectors": 17}, {"views": 1}, {"repeats": 0}, {"vectors": 8}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be a multiple of the views"):
        loss_hydes.run(**wrong)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="'int8' is not one of float32, bfloat16"):
        loss_hydes.run(dtype="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "loss.json"
    assert run_app(app, ["bench", "loss", "hydes", "--device", "cuda", "--out", str(out)]) == 2
    assert "device cuda: this machine has no GPU that torch can use" in capsys.readouterr().err
    assert not out.exists()
