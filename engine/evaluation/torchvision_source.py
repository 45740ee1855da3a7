"""torchvision's pretrained backbones, from torch hub's cache of this machine or from a file that is named."""

import difflib
import hashlib
import pickle
import re
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.backbone_source import TORCHVISION, BackboneSource
from viewmill.engine.exports.layouts import RESNETS

CLASSIFIER = "fc."
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")  # resnet18-f37072fd.pth: how its SHA-256 begins


def load_torchvision(text: str) -> BackboneSource:
    """The backbone of `NAME`, `NAME.WEIGHTS` or `NAME=FILE`, one of RESNETS; its classifier is left out.

    Without WEIGHTS torchvision's default ones. Nothing is downloaded: they lie in torch hub's cache, where a
    file whose SHA-256 does not begin as its name says is refused. FILE is taken as it is, .safetensors or
    .pth. Of a .pth file tensors alone are read (`torch.load` with `weights_only`), so no code of it runs.

    Raises:
        FileNotFoundError: the weights are not there; says where they would be, and how to give others.
        ValueError: no such backbone or weights, a damaged file, or weights of another network.
    """
    tagged, is_named, file = text.partition("=")
    name, _, tag = tagged.partition(".")
    weights = weights_of(name, tag)
    path = Path(file) if is_named else cached_file(name, weights)
    build = partial(build_backbone, name, image_size=224)
    backbone = build()
    _load_into(backbone, read_weights(path), f"{TORCHVISION}{tagged}: {path}")
    made = weights.transforms()
    return BackboneSource(
        name=f"{TORCHVISION}{name}.{weights.name}" if not is_named else f"{TORCHVISION}{name}={path.name}",
        backbone=backbone,
        build=build,
        about={"backbone": name, "stem": "imagenet", "image_size": made.crop_size[0]},
        image_size=made.crop_size[0],
        mean=cast(tuple[float, float, float], tuple(made.mean)),
        std=cast(tuple[float, float, float], tuple(made.std)),
        step=None,
        folder=None,
        path=None,
    )


def weights_of(name: str, tag: str = "") -> Any:
    """torchvision's description of these weights, the default ones without a tag.

    Raises:
        ValueError: no such backbone (the nearest is named) or weights.
    """
    if name not in RESNETS:
        near = difflib.get_close_matches(name, RESNETS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{TORCHVISION}{name}: no backbone that timm and torchvision build alike; the nearest is {near}, "
            f"all: {', '.join(RESNETS)}"
        )
    known = torchvision.models.get_model_weights(name)
    if tag and tag not in known.__members__:
        names = ", ".join(known.__members__)
        raise ValueError(f"{TORCHVISION}{name}.{tag}: torchvision has no such weights; one of {names}")
    return known[tag or "DEFAULT"]


def cached_file(name: str, weights: Any) -> Path:
    """Where torch hub keeps the weights on this machine.

    Raises:
        FileNotFoundError: they are not there.
        ValueError: the file is damaged.
    """
    file = Path(urlparse(weights.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        raise FileNotFoundError(
            f"{TORCHVISION}{name}: its weights {weights.name} are not on this machine, and nothing is "
            f"downloaded here; put {weights.url} at {path} (TORCH_HOME moves that folder), or name a file: "
            f"{TORCHVISION}{name}=FILE"
        )
    begins = _HASH_IN_NAME.search(file)
    found = _sha256(path)
    if begins is not None and not found.startswith(begins[1]):
        raise ValueError(
            f"{path}: its SHA-256 begins with {found[:8]}, its name says {begins[1]}; remove it and download "
            f"{weights.url} again, or take it as it is: {TORCHVISION}{name}={path}"
        )
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file without running code that it may hold.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it holds no tensors by name, or is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the weights as {TORCHVISION}NAME=FILE")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{path}: no weights can be read of it: {reason:.200}; download it again") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path}: is no state_dict, tensors by name, but a {type(found).__name__}")
    return found


def _load_into(backbone: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """All but the classifier, whose classes are nobody's here.

    Raises:
        ValueError: the weights are another network's.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER)}
    try:
        backbone.load_state_dict(kept)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise ValueError(f"{where}: the weights are not this backbone's: {lines:.300}") from error


def _sha256(path: Path) -> str:
    """In hexadecimal digits."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
