"""Learning curves of a sweep: the numbers of its runs, a curve a setting, in the order of its values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.curves_command import EXAMPLE
from viewmill.tools.pictures.sweep_curves import chosen_figure, curves_of, points_of, read_sweep

STEPS = 5  # of an epoch


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_member(folder: Path, kappa: float, seed: int, epochs: int = 9, *, tasks: bool = True) -> None:
    """A run of a sweep, whose linear probe gains kappa % an epoch, and a hundredth of that more a seed."""
    folder.mkdir(parents=True)
    config = {"seed": seed, "epochs": epochs, "method": {"name": "hydes", "kappa": kappa}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    events: list[dict[str, Any]] = [{"event": "start", "step": 0}]
    for epoch in range(epochs):
        step = STEPS * (epoch + 1)
        events += [{"event": "epoch", "step": step, "epoch": epoch}]
        if tasks:
            accuracy = 0.01 * kappa * (epoch + 1) * (1 + 0.01 * seed)
            events += [
                {"event": "evaluation", "step": step, "knn@20": 0.1, "linear": accuracy, "seconds": 1.0}
            ]
        events += [{"event": "checkpoint", "step": step}] * 30  # more than a report keeps
    write_lines(folder / "events.jsonl", events)
    write_lines(
        folder / "metrics.jsonl",
        [
            {"step": step, "epoch": (step - 1) // STEPS, "loss": -kappa * step}
            for step in range(1, STEPS * epochs + 1)
        ],
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for kappa in (10, 0.1, 1):
        for seed in (0, 1):
            write_member(folder / f"kappa={kappa},seed={seed}", kappa, seed)
    return folder


def test_a_curve_is_the_mean_over_seeds_and_its_band_their_range(sweep: Path) -> None:
    found = read_sweep(sweep)
    assert found.varied == ["method.kappa"]
    curves = curves_of(found, "linear", found.varied)
    assert list(curves) == ["kappa = 0.1", "kappa = 1", "kappa = 10"]  # by size, not by name
    curve = curves["kappa = 10"]
    epochs = np.arange(1, 10)
    np.testing.assert_allclose(curve.x, epochs)
    np.testing.assert_allclose(curve.middle, 0.1 * epochs * 1.005)
    np.testing.assert_allclose(curve.low, 0.1 * epochs)
    np.testing.assert_allclose(curve.high, 0.1 * epochs * 1.01)
    assert curve.runs == 2


def test_a_number_of_the_log_is_drawn_over_epochs_too(sweep: Path) -> None:
    run = read_sweep(sweep).runs[0]
    points = points_of(run, "loss")
    assert points[0] == (0.2, pytest.approx(-run.metrics[0]["step"] * 0.1))
    assert points[-1][0] == 9


def test_the_linear_probe_is_drawn_where_there_is_one_else_the_loss(sweep: Path, tmp_path: Path) -> None:
    assert chosen_figure(read_sweep(sweep), None) == "linear"
    write_member(tmp_path / "a", 1, 0, tasks=False)
    assert chosen_figure(read_sweep(tmp_path), None) == "loss"
    with pytest.raises(ValueError, match="no run has it; measured between epochs: nothing; logged: loss"):
        chosen_figure(read_sweep(tmp_path), "linear")


def test_runs_that_do_not_differ_so_and_runs_without_points_are_refused(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"do not differ in it; they differ in method\.kappa"):
        curves_of(read_sweep(sweep), "linear", ["method.beta"])
    write_member(tmp_path / "a", 1, 0, epochs=0)
    with pytest.raises(ValueError, match="no run of the sweep has a point"):
        curves_of(read_sweep(tmp_path), "loss", [])
    (tmp_path / "a" / "config.yaml").write_text("[1, 2")
    with pytest.raises(RuntimeError, match=r"config\.yaml: not YAML"):
        read_sweep(tmp_path)


def test_the_command_draws_the_sweep(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(sweep) if word == "SWEEP" else word for word in EXAMPLE.split()[1:]]
    assert run_app(app, [*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["by"] == ["method.kappa"]
    assert told["curves"]["kappa = 1"]["mean"][-1] == pytest.approx(0.09 * 1.005)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"curves-linear.png", "curves-linear.dark.png", "pictures.json", "pictures.html"}
    assert run_app(app, ["curves", str(tmp_path)]) == 2
    assert "no runs in it" in capsys.readouterr().err
