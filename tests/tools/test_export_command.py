"""`viewmill export` on a run and on exports: where it writes, what it prints, what it refuses."""

import json
from pathlib import Path

import pytest
from viewmill.engine.export import export_backbone
from viewmill.tools.cli import app
from viewmill.tools.console import run_app
from viewmill.tools.export_command import EXAMPLE

from tests.engine.exports.sources import source

ABOUT = {
    "backbone": "test_resnet",
    "stem": "imagenet",
    "image_size": 64,
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves in export/."""
    folder = tmp_path_factory.mktemp("given") / "export"
    weights = {
        f"backbone.{name}": value for name, value in source("test_resnet").backbone.state_dict().items()
    }
    export_backbone(weights, ABOUT, folder)
    return folder


def test_the_example_of_its_help_ends_in_a_folder(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"RUN": str(given), "EXPORTED": str(tmp_path / "EXPORTED")}
    words = [places.get(word, word) for word in EXAMPLE.split()[1:]]
    assert run_app(app, words) == 0
    printed = capsys.readouterr().out
    assert "config.json, model.safetensors; read back, features differ by" in printed
    assert (
        json.loads((tmp_path / "EXPORTED" / "config.json").read_text())["pretrained_cfg"]["mean"] == [0.5] * 3
    )


def test_json_tells_what_was_written(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["export", str(given), "--to", "timm", "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["files"] == ["README.md", "backbone.safetensors", "config.json"]
    assert (told["to"], told["task"], told["source"]) == ("timm", "backbone", "export")
    assert told["difference"] <= 1e-5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--to", "torchvision", "--out", "{new}"], "test_resnet is no network of torchvision"),
        (["--to", "timm"], "belongs to no run; say where the export goes with --out DIR"),
        (["--to", "timm", "--out", "{old}"], "is there already; remove it"),
        (["--to", "timm", "--out", "{new}", "--norm", "BN"], "--norm is of a detector"),
        (["--to", "timm", "--task", "detection", "--out", "{new}"], "for detectron2 and torchvision"),
        (["--to", "tim", "--out", "{new}"], "tim"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_code_2(
    words: list[str], expected: str, given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [word.format(new=tmp_path / "new", old=given) for word in words]
    assert run_app(app, ["export", str(given), *filled]) == 2
    line = capsys.readouterr().err
    assert expected in line
    assert line.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_run_and_a_damaged_file_are_told(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(app, ["export", str(tmp_path), "--to", "timm", "--out", str(tmp_path / "out")]) == 2
    assert "neither a run" in capsys.readouterr().err
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in given.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run_app(app, ["export", str(damaged), "--to", "timm", "--out", str(tmp_path / "out")]) == 2
    assert "no backbone can be built of this export" in capsys.readouterr().err
