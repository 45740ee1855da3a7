"""The libraries that a backbone is exported to: what each takes, what is written, how it is read again."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone, is_vision_transformer, load_local_folder
from viewmill.engine.evaluation.backbone_source import WEIGHTS_FILE, BackboneSource
from viewmill.engine.export import ABOUT_FILE, BACKBONE_FILE
from viewmill.engine.exports.layouts import RESNETS, from_detectron2, to_detectron2

State = dict[str, Tensor]


@dataclass(frozen=True)
class Target:
    """One library.

    check: raises ValueError where it has no such backbone. write: the weights, and what the library wants
    beside them, into a folder. reload: the backbone out of that folder, as a user of the library gets it.
    """

    file: str  # of the weights
    check: Callable[[BackboneSource], None]
    write: Callable[[BackboneSource, State, Path], None]
    reload: Callable[[BackboneSource, Path], nn.Module]


def state_of(source: BackboneSource) -> State:
    """Weights and buffers under timm's names, floats in float32.

    Raises:
        ValueError: a number is not finite.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in source.backbone.state_dict().items()}
    state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(
            f"{source.name}: {len(bad)} tensors are not finite, the first is {bad[0]}; the weights have "
            "diverged, export an earlier checkpoint"
        )
    return state


def architecture_of(source: BackboneSource) -> str:
    """The name that timm gives the structure, and torchvision too where it is one of RESNETS."""
    return str(source.about["backbone"])


def has_small_stem(source: BackboneSource) -> bool:
    """Whether the 7 x 7 convolution and the pooling at the entrance are replaced; see `build_backbone`."""
    return source.about["stem"] == "small"


def torchvision_resnet(name: str, *, small_stem: bool) -> nn.Module:
    """torchvision's ResNet without classifier: (n, 3, H, W) -> (n, F)."""
    made: Any = torchvision.models.get_model(name, weights=None)
    made.fc = nn.Identity()
    if small_stem:
        made.conv1 = nn.Conv2d(3, made.conv1.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
        made.maxpool = nn.Identity()
    backbone: nn.Module = made
    return backbone


def check_resnet(source: BackboneSource) -> None:
    """Raises ValueError: the structure is no ResNet that torchvision and detectron2 have."""
    name = architecture_of(source)
    if name not in RESNETS:
        raise ValueError(
            f"{source.name}: {name} is no network of torchvision or detectron2; export it --to timm or "
            f"hf (the two take {', '.join(RESNETS)})"
        )


def _check_detectron2(source: BackboneSource) -> None:
    check_resnet(source)
    if has_small_stem(source):
        raise ValueError(
            f"{source.name}: its stem is the small one, and detectron2's has a 7 x 7 convolution and "
            "pooling; export it --to timm or --to torchvision"
        )


def _check_hf(source: BackboneSource) -> None:
    if has_small_stem(source):
        raise ValueError(
            f"{source.name}: its stem is the small one, which timm.create_model does not build from a "
            "config.json; export it --to timm, whose README.md has the two lines that change the stem"
        )


def _write_plain(source: BackboneSource, state: State, folder: Path) -> None:
    save_file(state, folder / BACKBONE_FILE, metadata={"format": "pt"})


def _write_hf(source: BackboneSource, state: State, folder: Path) -> None:
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    text = json.dumps(hf_config(source), indent=2) + "\n"
    (folder / ABOUT_FILE).write_text(text, encoding="utf-8")


def hf_config(source: BackboneSource) -> dict[str, Any]:
    """The config.json from which timm, and transformers' TimmWrapper, build the backbone and feed it."""
    size = source.image_size
    grid = {"img_size": size, "dynamic_img_size": True} if is_vision_transformer(source.backbone) else {}
    return {
        "architecture": architecture_of(source),
        "num_classes": 0,
        "num_features": cast(int, source.backbone.num_features),
        **({"model_args": grid} if grid else {}),
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, size, size],
            # Of the evaluation: the short side to 8/7 of the size, and the centre of that.
            "crop_pct": 0.875,
            "crop_mode": "center",
            "interpolation": "bilinear",
            "mean": list(source.mean),
            "std": list(source.std),
        },
    }


def _write_detectron2(source: BackboneSource, state: State, folder: Path) -> None:
    _write_plain(source, to_detectron2(state), folder)


def _reload_timm(source: BackboneSource, folder: Path) -> nn.Module:
    name, stem = architecture_of(source), source.about["stem"]
    backbone = build_backbone(name, stem=stem, image_size=source.image_size)
    backbone.load_state_dict(load_file(folder / BACKBONE_FILE))
    return backbone


def _reload_torchvision(source: BackboneSource, folder: Path) -> nn.Module:
    backbone = torchvision_resnet(architecture_of(source), small_stem=has_small_stem(source))
    backbone.load_state_dict(load_file(folder / BACKBONE_FILE))
    return backbone


def _reload_detectron2(source: BackboneSource, folder: Path) -> nn.Module:
    """By way of torchvision: detectron2 is in no package index, so its names are led back."""
    backbone = torchvision_resnet(architecture_of(source), small_stem=False)
    # A state without version, as a plain mapping is, may leave out the counters of batches.
    backbone.load_state_dict(from_detectron2(load_file(folder / BACKBONE_FILE)))
    return backbone


TARGETS = {
    "timm": Target(BACKBONE_FILE, lambda source: None, _write_plain, _reload_timm),
    "torchvision": Target(BACKBONE_FILE, check_resnet, _write_plain, _reload_torchvision),
    "detectron2": Target(BACKBONE_FILE, _check_detectron2, _write_detectron2, _reload_detectron2),
    "hf": Target(WEIGHTS_FILE, _check_hf, _write_hf, lambda source, folder: load_local_folder(folder)),
}
