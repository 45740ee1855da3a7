"""Commands that take a backbone of torchvision by its name: with its weights in the cache, and without."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from viewmill.engine.evaluation.dense import pixel_probe
from viewmill.shards.convert import convert
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.engine.evaluation.dense.scenes import voc_folder
from tests.engine.evaluation.hub_cache import cached, drawn_resnet18

NAME = "torchvision:resnet18"
ON_CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images of two classes to train on, as many to test on, and scenes as VOC lays them out."""
    folder = tmp_path_factory.mktemp("data")
    for part, seed in (("train", 0), ("test", 1)):
        for number in range(8):
            path = folder / "images" / part / ("cat", "dog")[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([seed, number]).integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        convert(folder / "images" / part, folder / part, workers=1)
    voc_folder(folder / "voc", train=4, test=2)
    return folder


def words_of(command: str, data: Path, out: Path) -> list[str]:
    """Each command that takes a backbone, at its smallest."""
    evaluate = ["--train", f"{data / 'train'}", "--on", f"{data / 'test'}", "--tasks", "knn@5", *ON_CPU]
    pictures = ["--on", f"{data / 'test'}", "--pictures", "neighbours", "--images", "2", *ON_CPU]
    rest = {
        "evaluate": [*evaluate, "--image-size", "32", "--out", f"{out}", "--json"],
        "segment": ["--data", f"{data / 'voc'}", "--image-size", "64", *ON_CPU, "--out", f"{out}", "--json"],
        "pictures": [*pictures, "--image-size", "32", "--out", f"{out}", "--json"],
        "export": ["--to", "torchvision", "--out", f"{out / 'exported'}", "--json"],
    }
    return rest[command]


@pytest.mark.slow
def test_every_command_takes_cached_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = drawn_resnet18()
    cached(tmp_path / "home", network, monkeypatch)
    monkeypatch.setattr(pixel_probe, "EPOCHS", 1)
    printed = {}
    for command in ("evaluate", "segment", "pictures", "export"):
        assert run_app(app, [command, NAME, *words_of(command, data, tmp_path)]) == 0, command
        printed[command] = json.loads(capsys.readouterr().out)
    assert printed["evaluate"][0]["task"] == "knn@5"
    assert printed["segment"][0]["task"] == "segmentation"
    assert printed["pictures"]["pictures"] == ["neighbours"]
    assert (tmp_path / "pictures").is_dir()
    assert printed["export"]["source"] == f"{NAME}.IMAGENET1K_V1"
    [weights] = [name for name in printed["export"]["files"] if name.endswith(".safetensors")]
    exported = load_file(tmp_path / "exported" / weights)
    np.testing.assert_array_equal(exported["conv1.weight"], network.state_dict()["conv1.weight"].numpy())


@pytest.mark.parametrize("command", ["evaluate", "segment", "pictures", "export"])
def test_without_weights_every_command_says_in_a_line_which_file_is_missing_where(
    command: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert run_app(app, [command, NAME, *words_of(command, data, tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "home" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in error
    assert f"{NAME}=FILE" in error
