"""An export reloads in its library, by the lines of its README, and gives the same features."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from viewmill.engine.evaluation.backbone_source import BackboneSource, load_export
from viewmill.engine.exports import exporting
from viewmill.engine.exports.exporting import TOLERANCE, export_to
from viewmill.engine.exports.targets import TARGETS

from tests.engine.exports.sources import source

IMAGES = torch.linspace(-2, 2, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64).sin()


@torch.inference_mode()
def features(backbone: nn.Module) -> Tensor:
    return backbone.eval()(IMAGES)  # type: ignore[no-any-return]


def by_its_guide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The backbone that the lines of README.md load, run in the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(code, names)  # noqa: S102  # what this repository has written
    backbone: nn.Module = names["backbone"]
    return backbone


@pytest.mark.parametrize(
    ("target", "name", "stem"),
    [
        ("timm", "resnet18", "imagenet"),
        ("timm", "resnet18", "small"),
        ("timm", "test_vit", "imagenet"),
        ("torchvision", "resnet18", "imagenet"),
        ("torchvision", "resnet18", "small"),
        ("hf", "resnet18", "imagenet"),
        ("hf", "test_vit", "imagenet"),
        ("hf", "test_resnet", "imagenet"),
    ],
)
def test_the_lines_of_the_guide_give_the_same_features(
    target: str, name: str, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = source(name, stem=stem)
    wanted = features(given.backbone)
    made = export_to(given, target, tmp_path / "out")
    assert made.difference <= TOLERANCE
    assert made.files == sorted({TARGETS[target].file, "config.json", "README.md"})
    again = features(by_its_guide(tmp_path / "out", monkeypatch))
    torch.testing.assert_close(again, wanted, rtol=0, atol=1e-5 * wanted.abs().max().item())


def test_a_bottleneck_network_reloads_in_torchvision_from_detectron2s_names(tmp_path: Path) -> None:
    given = source("resnet50")
    made = export_to(given, "detectron2", tmp_path / "out")
    assert made.difference <= TOLERANCE
    named = load_file(tmp_path / "out" / "backbone.safetensors")
    assert torch.equal(named["res5.2.conv3.norm.bias"], given.backbone.state_dict()["layer4.2.bn3.bias"])
    assert 'STRIDE_IN_1X1 = 50, "BN", False' in (tmp_path / "out" / "README.md").read_text()


def test_what_is_written_for_timm_can_be_evaluated(tmp_path: Path) -> None:
    given = source("resnet18", stem="small")
    export_to(given, "timm", tmp_path / "out")
    found = load_export(tmp_path / "out")
    assert (found.about, found.step, found.mean) == (given.about, 10, given.mean)
    assert torch.equal(features(found.backbone), features(given.backbone))


def test_hubs_config_says_how_to_feed_it(tmp_path: Path) -> None:
    export_to(source("test_vit", image_size=96), "hf", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architecture"] == "test_vit"
    assert config["model_args"]["img_size"] == 96
    assert config["pretrained_cfg"]["input_size"] == [3, 96, 96]
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]


@pytest.mark.parametrize(
    ("target", "name", "stem", "words"),
    [
        ("torchvision", "test_vit", "imagenet", "test_vit is no network of torchvision.*--to timm"),
        ("detectron2", "test_vit", "imagenet", "test_vit is no network of torchvision or detectron2"),
        ("torchvision", "test_resnet", "imagenet", "test_resnet is no network"),
        ("detectron2", "resnet18", "small", "stem is the small one.*--to timm"),
        ("hf", "resnet18", "small", "stem is the small one.*--to timm"),
    ],
)
def test_what_a_library_does_not_have_is_refused_with_what_to_do(
    target: str, name: str, stem: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        export_to(source(name, stem=stem), target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    given = source("test_resnet")
    next(given.backbone.parameters()).data.view(-1)[0] = float("nan")
    with pytest.raises(
        ValueError, match=r"1 tensors are not finite, the first is .*conv1.*earlier checkpoint"
    ):
        export_to(given, "timm", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="give another folder with --out"):
        export_to(source("test_resnet"), "timm", tmp_path)
    assert (tmp_path / "mine").read_text() == "x"


def broken(write: Callable[[BackboneSource, Any, Path], None]) -> Callable[[BackboneSource, Any, Path], None]:
    """Writes one tensor wrong."""

    def wrong(given: BackboneSource, state: dict[str, Tensor], folder: Path) -> None:
        write(given, state, folder)
        path = folder / "backbone.safetensors"
        named = {name: value.clone() for name, value in load_file(path).items()}
        named["layer3.0.bn2.weight"] *= 1.01
        save_file(named, path)

    return wrong


def test_an_export_with_other_features_is_found_out_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS["torchvision"]
    monkeypatch.setitem(exporting.TARGETS, "torchvision", replace(target, write=broken(target.write)))
    with pytest.raises(RuntimeError, match="other features"):
        export_to(source("resnet18"), "torchvision", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
