"""`viewmill prior`, from a trained distillation and from any other backbone."""

import json
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.passes.prior_file import read_prior
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.prior_command import summary_table

from tests.engine.tiny import tiny_config, tiny_data_set

SAMPLES, CLUSTERS = 26, 12
pytestmark = pytest.mark.slow
METHOD = {
    "name": "distill",
    "num_clusters": CLUSTERS,
    "projector": {"layers": 2, "hidden": 32, "dim": 16},
    "scope": "streaming",
}
QUICK = ["--executor", "reference", "--num-threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("prior"), count=SAMPLES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """Two epochs of a distillation with a streaming prior."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    views = {"preset": "imsvd@32", "executor": "reference", "num_threads": 1}
    world: World = start_world("cpu")
    try:
        train(tiny_config(epochs=2, method=METHOD, views=views), data, folder, world=world)
    finally:
        stop_world(world)
    return folder


def prior(capsys: pytest.CaptureFixture[str], *words: str | Path) -> dict[str, Any]:
    """What the command prints as JSON."""
    assert run_app(app, ["prior", *map(str, words), *QUICK, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_distillation_has_its_clusters_temperature_and_streaming_prior(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prior.safetensors"
    told = prior(capsys, run, "--data", data, "--out", out)
    assert (told["samples"], told["total"], told["clusters"]) == (SAMPLES, SAMPLES, CLUSTERS)
    assert told["temperature"] == pytest.approx(0.07)  # where the schedule ends
    assert told["agreement"]["streaming"]["rows"] == 2 * 24  # two views of the whole batches of an epoch
    assert 0 <= told["agreement"]["streaming"]["total_variation"] < 1
    kept = read_prior(out)
    assert kept.prototypes is None
    assert float(kept.log_prior.exp().sum()) == pytest.approx(1, abs=0.1)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]  # no state is left


def test_any_backbone_gets_clusters_by_k_means_which_a_file_keeps(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    made = prior(capsys, run, "--data", data, "--out", first, "--clusters", "4", "--temperature", "0.2")
    taken = prior(
        capsys,
        *(run, "--data", data, "--out", second, "--prototypes", first, "--temperature", "0.2"),
        *("--against", first),
    )
    assert taken["agreement"][str(first)]["total_variation"] == pytest.approx(0, abs=1e-7)
    assert taken["entropy"] == pytest.approx(made["entropy"], abs=1e-6)
    part = prior(capsys, run, "--data", data, "--out", second, "--prototypes", first, "--subsample", "13")
    assert (part["samples"], part["total"]) == (13, SAMPLES)
    assert part["median_relative_error"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clusters", "4", "--prototypes", "x"], "give one of the two"),
        (["--temperature", "0"], "--temperature must be > 0"),
        (["--out", "no/such/folder/prior.safetensors"], "there is no folder"),
        (["--against", "none.safetensors"], "no such file; viewmill prior writes one"),
        (["--clusters", "4000"], "4000 clusters of 26 samples"),
        (["--subsample", "27"], "a subsample of 27 of the 26 samples"),
    ],
)
def test_wrong_usage_is_told_in_a_line(
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_app(app, ["prior", str(run), "--data", str(data), *words, *QUICK]) == 2
    assert message in capsys.readouterr().err


def test_the_table_tells_what_the_figures_say(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = prior(capsys, run, "--data", data, "--out", tmp_path / "prior.safetensors")
    assert summary_table(told).row_count == 10
    code = run_app(app, ["prior", str(run), "--data", str(data), "--out", str(tmp_path / "b"), *QUICK])
    shown = capsys.readouterr().out
    assert code == 0
    assert f"{SAMPLES} of {SAMPLES}" in shown
    assert "against streaming (48 teacher outputs)" in shown
    assert "none: every image was read" in shown
