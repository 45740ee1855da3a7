"""`viewmill profile` from the command line: figures as JSON, the page, the traces; mistakes in one line."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.doctor.costs import LOADER
from viewmill.tools.doctor.loader_alone import LoaderAlone
from viewmill.tools.doctor.verdict import tables

from tests.engine.tiny import tiny_data_set

SETTINGS = ["model.backbone=test_resnet", "views.preset=hydes@32", "batch_size=4", "views.num_threads=1"]
SETTINGS += ["method.projector.hidden=16", "method.projector.dim=8", "torch_threads=1", "device=cpu"]
SETTINGS += ["views.executor=reference"]
JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data_set(tmp_path_factory.mktemp("profiled"), count=24)


@pytest.fixture(scope="module")
def profiled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("written")
    words = ["hydes_tiny", "--data", str(data), *SETTINGS, "--rounds", "1", "--steps", "2", "--json"]
    words += ["--html", str(folder / "profile.html"), "--traces", str(folder / "traces")]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(JOB, ("0", "1", "0", "127.0.0.1", "29500"), strict=True):
            patch.setenv(name, value)  # a command that runs in this process leaves no variable behind
        patch.setattr("viewmill.tools.doctor.loader_alone.LEAST_IMAGES", 4)
        patch.setattr("viewmill.tools.doctor.loader_alone.LEAST_S", 0.0)
        patch.setattr("viewmill.tools.doctor.training_alone.LEAST_S", 0.0)
        printed: list[dict[str, Any]] = []
        patch.setattr("viewmill.tools.profile_command.print_json", printed.append)
        assert run_app(app, ["profile", *words]) == 0
    return json.loads(json.dumps(printed[0], allow_nan=False)), folder


@pytest.mark.slow
def test_the_figures_name_a_stage_and_what_other_settings_would_give(
    profiled: tuple[dict[str, Any], Path],
) -> None:
    found, _ = profiled
    diagnosis = found["diagnosis"]
    names = [stage["name"] for stage in diagnosis["stages"]]
    assert {"storage read", "decode", "augment", "forward", "loss", "backward", "optimiser"} <= set(names)
    assert {"communication", "logging", "checkpoint"} <= set(names)
    assert diagnosis["binding"] in names
    assert sum(stage["charged_s"] for stage in diagnosis["stages"]) == pytest.approx(
        diagnosis["model_step_s"]
    )
    settings = {change["setting"] for change in found["changes"]}
    assert {"batch_size=8", "views.executor=host", "log.every_steps=10"} <= settings
    arithmetic = found["arithmetic"]
    assert arithmetic["flops"] > 1e6
    # Nothing is computed twice here; a first layer has no gradient of its inputs, which counts as needed.
    needed_of_counted = arithmetic["model_flops"] / arithmetic["flops"]
    assert 1.0 <= needed_of_counted < 1.25
    assert arithmetic["mfu"] / arithmetic["hfu"] == pytest.approx(needed_of_counted)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(tables(found))
    for name, share in (("MFU, what the model needs", "mfu"), ("HFU, what was computed", "hfu")):
        (line,) = [line for line in capture.get().splitlines() if name in line]
        assert f" {arithmetic[share]:.1%}: " in line
    assert found["verdict"][0].count("images/s") == 1


@pytest.mark.slow
def test_a_plan_by_the_profile_takes_the_steps_of_its_stages(
    profiled: tuple[dict[str, Any], Path],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found, _ = profiled
    file = tmp_path / "profile.json"
    file.write_text(json.dumps(found))
    words = ["plan", "hydes_tiny", "--data", str(data), *SETTINGS, "--measured", str(file), "--runs", "1"]
    words += ["--cluster", "cpu", "--set", "ranks_per_node=1", "--set", "cpu_threads=4096"]
    words += ["--set", "physical_cores=4096", "--set", "storage_gb_s=1e9"]
    assert run_app(app, [*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["measured"]["source"].startswith("viewmill profile of 1 x cpu, test_resnet, hydes, fp32")
    diagnosis = found["diagnosis"]
    longest = max(diagnosis["paths"].values())
    (checkpoint_s,) = [one["alone_s"] for one in diagnosis["stages"] if one["name"] == "checkpoint"]
    # A plan counts checkpoints under failures; what holds the training up stretches one too.
    stretched = max(1.0, diagnosis["paths"]["training"] / training_s(diagnosis))
    others = [diagnosis["paths"][name] for name in ("reading", "processors") if name in diagnosis["paths"]]
    assert max(longest, *others) - stretched * checkpoint_s <= 1.0001 * max(made["step_s"], *others)
    assert made["step_s"] <= 1.0001 * longest
    assert run_app(app, [*words, "model.backbone=resnet18"]) == 2
    assert "model.backbone: measured with test_resnet" in capsys.readouterr().err


def training_s(diagnosis: dict[str, Any]) -> float:
    """Of its stages alone."""
    return sum(one["alone_s"] for one in diagnosis["stages"] if one["name"] not in LOADER)


@pytest.mark.slow
def test_the_page_needs_no_network_and_the_trace_holds_the_parts(
    profiled: tuple[dict[str, Any], Path],
) -> None:
    found, folder = profiled
    page = (folder / "profile.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert "hydes_tiny" in page
    for kind in ("ceilings", "waterfall", "timeline"):
        assert f'"kind": "{kind}"' in page
    trace = json.loads(gzip.decompress((folder / "traces" / "rank-0.json.gz").read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert {"forward", "loss", "backward", "optimiser", "wait for data"} <= names
    assert sorted(path.name for path in folder.iterdir()) == ["profile.html", "traces"]
    assert tables(found).renderables


def test_a_folder_that_is_not_there_is_told_before_anything_runs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoaderAlone, "__init__", None)  # nothing may be measured
    for option in ("--traces", "--scratch", "--html"):
        words = ["profile", "hydes_tiny", "--data", str(data), option, str(tmp_path / "no" / "x")]
        assert run_app(app, words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / 'no'}")
