"""`viewmill plan`: figures as tables and JSON, formulas, a page, pictures, and one-line errors."""

import json
from pathlib import Path

import pytest
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.planning.measured import Origin

from tests.tools.planning.plans import RATES

RECIPE = ["plan", "hydes_cifar10", "--cluster", "a100", "--images", "1281167", "--runs", "2"]
RECIPE += ["precision=bf16", "batch_size=512"]


def test_json_has_all_that_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, [*RECIPE, "--set", "price_per_node_hour=30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["world_size"] == 32
    assert found["images_per_s"] == pytest.approx(512 / found["step_s"])
    assert found["cost"] == pytest.approx(found["hours"] * 4 * 30)
    assert found["binding"] in found["seconds"]
    assert {row["stage"] for row in found["zero_stages"]} == {0, 1, 2, 3}
    assert set(found["logbooks"]) == {"Llama 3 405B", "RSC-1", "RSC-2", "OPT-175B"}
    own = found["reliability"]["own"]
    assert 0 < own["goodput"]["goodput"] <= 1
    assert found["cost_with_failures"] == pytest.approx(own["hours"] * 4 * 30)
    assert found["cost_with_failures"] > found["cost"]
    weak = {point["nodes"]: point for point in found["scaling"]["weak"]}
    assert set(weak) == {2**power for power in range(11)}
    assert {point["batch_size"] // point["ranks"] for point in weak.values()} == {16}
    assert set(found["scaling_left_out"]["strong"]) == {"128", "256", "512", "1024"}
    assert found["scaling_left_out"]["weak"] == {}
    strong = [point["batch_size"] for point in found["scaling"]["strong"]]
    assert set(strong) == {512}
    assert len(strong) == 7  # 512 images are equal shares of at most 512 ranks


def test_why_prints_formulas_and_pictures_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, plots = tmp_path / "plan.html", tmp_path / "plots"
    assert run_app(app, [*RECIPE, "--why", "--html", str(page), "--plots", str(plots)]) == 0
    shown = capsys.readouterr().out
    assert "images_per_s = B/step_s = " in shown
    assert "binding: " in shown
    assert sorted(path.name for path in plots.glob("*.png")) == [
        "scaling-efficiency.png", "scaling-hours.png", "scaling-throughput.png",
    ]  # fmt: skip
    text = page.read_text()
    assert "http-equiv" in text
    assert "images_per_s = B/step_s" in text
    assert text.count("plotly.js v") == 1


def test_measured_constants_take_the_place_of_the_datasheets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "measured.json"
    of = Origin(device="NVIDIA A100-SXM4-80GB", precision="bf16", backbone="resnet18", method="hydes")
    path.write_text(RATES.model_copy(update={"of": of}).model_dump_json())
    assert run_app(app, [*RECIPE, "--measured", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measured"]["source"] == "round numbers"
    assert run_app(app, [*RECIPE, "--measured", str(path), "--cluster", "h100"]) == 2
    assert "device: measured on NVIDIA A100-SXM4-80GB" in capsys.readouterr().err


def test_a_run_that_failures_never_let_end_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--set", "reliability.failures_per_node_day=40", "--set", "price_per_node_hour=1"]
    assert run_app(app, [*RECIPE, *words, "--nodes", "32", "--set", "reliability.restart_s=1e6"]) == 0
    shown = capsys.readouterr().out
    assert "failures: one in 67.5 s leaves under 1% goodput, so the run is never done" in shown
    assert "without failures, never done with them" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cluster", "h1oo"], "the nearest preset is h100"),
        (["--set", "nic_gb=1"], "nic_gb is no setting; the nearest is nic_gb_s"),
        (["precision=fp16", "--cluster", "cpu"], "cpu"),
        (["--nodes", "7"], "batch_size=512 is not a multiple of 56 ranks"),
        (["--measured", "/nowhere.json"], "no such file"),
        (["--calibrate", "x.json"], "give --data"),
        (["--calibrate", "x.json", "--data", "x"], "measures this machine's cores, and a100 has GPUs"),
        (["optimizer.lrr=1"], "the nearest is optimizer.lr"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_planned_is_told_in_one_line(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, [*RECIPE, *words]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert told in line
