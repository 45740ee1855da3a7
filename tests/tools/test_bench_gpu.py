"""`bench gpu`: its measuring works on the CPU, with a small network; its figures need a GPU."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from viewmill.tools.bench import gpu
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.pipelines.photographs import write_dataset

pytestmark = pytest.mark.slow  # a projector of the usual size, in bfloat16 on a CPU


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bench"), 12)


@pytest.fixture(scope="module")
def result(data: Path) -> dict[str, Any]:
    return gpu.run(
        data,
        device="cpu",
        view_preset="hydes@32",
        backbone="test_resnet",
        batch_size=4,
        steps=2,
        repeats=1,
        threads=1,
        executors=("host", "resident"),
    )


def test_every_executor_is_measured_beside_data_that_is_there(result: dict[str, Any]) -> None:
    assert list(result["figures"]) == [
        "ceiling", "loader host", "training host", "loader resident", "training resident",
    ]  # fmt: skip
    for figures in result["figures"].values():
        low, high = figures["images_per_s_range"]
        assert 0 < low <= figures["images_per_s"] <= high
        assert 4e3 / high == pytest.approx(figures["step_ms_range"][0])
    for name in ("host", "resident"):
        assert 0 <= result["figures"][f"training {name}"]["wait_fraction"] <= 1
        assert result["figures"][f"training {name}"]["of_synthetic"] > 0
        assert 0 < result["parity"][name]["mean"] < 2
        assert result["parity"][name]["largest"] >= result["parity"][name]["mean"]


def test_a_result_is_json_and_a_table(result: dict[str, Any]) -> None:
    assert "/tmp" not in json.dumps(result)
    console = Console(file=io.StringIO(), width=200)
    console.print(gpu.table(result))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "resident" in shown
    assert "on the device already" in shown


def test_a_step_changes_the_weights_and_its_views_are_those_of_the_loader(data: Path) -> None:
    spec = gpu.preset("hydes@32")
    step = gpu.TrainingStep(spec, "test_resnet", torch.device("cpu"))
    before = [weight.detach().clone() for weight in step.student.parameters()]
    views = [torch.randn(4, 3, size, size).to(gpu.FORM.torch_dtype) for size in spec.sizes]
    assert torch.isfinite(step(views))
    after = list(step.student.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_command_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gpu.json"
    assert run_app(app, ["bench", "gpu", "--data", str(data), "--out", str(out)]) == 2
    assert "this machine has no GPU that torch can use" in capsys.readouterr().err
    assert not out.exists()
