"""`bench sentinels` on the smallest things: what it measures and what it says of it."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from viewmill.tools.bench.sentinels import run, table
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

SMALL = ("model.backbone=test_resnet", "model.stem=imagenet", "batch_size=4")


@pytest.mark.slow
def test_every_method_is_measured_beside_its_own_step() -> None:
    told: list[str] = []
    result = run(overrides=SMALL, repeats=2, looks=2, progress=told.append)
    assert list(result["recipes"]) == ["hydes_cifar10", "imsvd_cifar10", "distill_prior"]
    for figures in result["recipes"].values():
        assert figures["batch_size"] == 4
        assert 0 < figures["look_ms"] < figures["step_ms"]
        low, high = figures["share_range"]
        assert low <= figures["share"] <= high
        assert figures["share_of_run"] == pytest.approx(figures["share"] / 10)
    assert told[:3] == [f"hydes_cifar10: {what}" for what in ("first time", "round 1 of 2", "round 2 of 2")]
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table(result))
    assert "distill_prior" in capture.get()


@pytest.mark.slow
def test_the_command_keeps_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sentinels.json"
    words = ["bench", "sentinels", "--recipe", "hydes_cifar10", "--repeats", "1", "--out", str(out), "--json"]
    assert run_app(app, [*words, *(word for setting in SMALL for word in ("--set", setting))]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="need recipes and numbers >= 1"):
        run(repeats=0)
