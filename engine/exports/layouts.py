"""Names of a ResNet's tensors: timm's and torchvision's, which are the same, and detectron2's."""

import re
from collections.abc import Mapping

from torch import Tensor

# Architectures that timm and torchvision build alike under one name; the stride is in the 3 x 3 convolution.
RESNETS = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
)
BASIC = ("resnet18", "resnet34")  # of blocks with two convolutions
_GROUPS = {"resnext50_32x4d": (32, 4), "resnext101_32x8d": (32, 8), "resnext101_64x4d": (64, 4)}
_COUNTER = "num_batches_tracked"  # of torch's BatchNorm; detectron2's files have none
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(.+)")
_BLOCK_OF_DETECTRON2 = re.compile(r"res([2-5])\.(\d+)\.(.+)")
_STEM = {"conv1.weight": "stem.conv1.weight"}


def depth_of(name: str) -> int:
    """Layers of one of RESNETS: 50 of resnext50_32x4d."""
    found = re.search(r"resne[tx]t?(\d+)", name)
    assert found is not None
    return int(found[1])


def groups_of(name: str) -> tuple[int, int]:
    """Groups of its 3 x 3 convolutions, and channels of each in the first stage."""
    return _GROUPS.get(name, (1, 128 if name.startswith("wide") else 64))


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a timm or torchvision ResNet under the names of detectron2's `ResNet`.

    stem.conv1, res2 .. res5 for layer1 .. layer4, `shortcut` for `downsample`; a BatchNorm is the `norm` of
    the convolution before it. Counters of batches are left out: nothing that detectron2 reads needs them.

    Raises:
        ValueError: a tensor that such a ResNet does not have.
    """
    return {_detectron2_name(name): value for name, value in state.items() if not name.endswith(_COUNTER)}


def from_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_detectron2`, without the counters.

    Raises:
        ValueError: a name that detectron2's ResNet does not have.
    """
    return {_torchvision_name(name): value for name, value in state.items()}


def to_c4(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As a C4 detector of detectron2 has these: res5 belongs to its heads, the rest to its backbone."""
    return {
        f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}": value
        for name, value in state.items()
    }


def _detectron2_name(name: str) -> str:
    if name in _STEM:
        return _STEM[name]
    if name.startswith("bn1."):
        return f"stem.conv1.norm.{name.removeprefix('bn1.')}"
    block = _BLOCK.fullmatch(name)
    if block is None:
        raise ValueError(f"{name}: no tensor of a ResNet without classifier; detectron2 has no name for it")
    return f"res{int(block[1]) + 1}.{block[2]}.{_inner_to_detectron2(block[3])}"


def _inner_to_detectron2(inner: str) -> str:
    """Names within a block: conv2.weight stays, bn2.bias -> conv2.norm.bias, downsample.0 -> shortcut."""
    layer, _, rest = inner.partition(".")
    if layer.startswith("bn"):
        return f"conv{layer[2:]}.norm.{rest}"
    if layer == "downsample":
        place, _, tensor = rest.partition(".")
        return f"shortcut.{tensor}" if place == "0" else f"shortcut.norm.{tensor}"
    return inner


def _torchvision_name(name: str) -> str:
    if name.startswith("stem.conv1."):
        rest = name.removeprefix("stem.conv1.")
        return f"bn1.{rest.removeprefix('norm.')}" if rest.startswith("norm.") else f"conv1.{rest}"
    block = _BLOCK_OF_DETECTRON2.fullmatch(name)
    if block is None:
        raise ValueError(f"{name}: no tensor of detectron2's ResNet")
    return f"layer{int(block[1]) - 1}.{block[2]}.{_inner_of_detectron2(block[3])}"


def _inner_of_detectron2(inner: str) -> str:
    layer, _, rest = inner.partition(".")
    normed = rest.startswith("norm.")
    tensor = rest.removeprefix("norm.")
    if layer == "shortcut":
        return f"downsample.{1 if normed else 0}.{tensor}"
    return f"bn{layer[4:]}.{tensor}" if normed else inner
