"""The names of detectron2's ResNet, against a table of its layout; and back again."""

import pytest
import torch
from torch import Tensor
from viewmill.engine.exports.layouts import (
    RESNETS,
    depth_of,
    from_detectron2,
    groups_of,
    to_c4,
    to_detectron2,
)
from viewmill.engine.exports.targets import state_of, torchvision_resnet

from tests.engine.exports.sources import source

NORM = ("weight", "bias", "running_mean", "running_var")
BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def convolution(name: str, out: int, into: int, kernel: int) -> dict[str, tuple[int, ...]]:
    """A convolution of detectron2 without bias, and the norm that belongs to it."""
    return {f"{name}.weight": (out, into, kernel, kernel)} | {f"{name}.norm.{part}": (out,) for part in NORM}


def detectron2_layout(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of its `ResNet`: a stem, and res2 to res5 of basic or bottleneck blocks."""
    table = convolution("stem.conv1", 64, 3, 7)
    into = 64
    for stage, count in enumerate(BLOCKS[depth]):
        inner = 64 * 2**stage
        out = inner if depth == 18 else 4 * inner
        for number in range(count):
            block = f"res{stage + 2}.{number}"
            if number == 0 and into != out:
                table |= convolution(f"{block}.shortcut", out, into, 1)
            if depth == 18:
                table |= convolution(f"{block}.conv1", out, into, 3)
                table |= convolution(f"{block}.conv2", out, out, 3)
            else:
                table |= convolution(f"{block}.conv1", inner, into, 1)
                table |= convolution(f"{block}.conv2", inner, inner, 3)
                table |= convolution(f"{block}.conv3", out, inner, 1)
            into = out
    return table


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("depth", [18, 50])
def test_names_and_shapes_are_those_of_detectron2(depth: int) -> None:
    assert shapes(to_detectron2(state_of(source(f"resnet{depth}")))) == detectron2_layout(depth)


def test_each_tensor_comes_back_under_its_name() -> None:
    state = state_of(source("resnet18"))
    again = from_detectron2(to_detectron2(state))
    kept = {name for name in state if not name.endswith("num_batches_tracked")}
    assert again.keys() == kept
    assert all(torch.equal(again[name], state[name]) for name in kept)


def test_a_c4_detector_has_res5_in_its_heads() -> None:
    named = to_c4({"stem.conv1.weight": torch.zeros(1), "res4.0.conv1.weight": torch.zeros(1)})
    assert set(named) == {"backbone.stem.conv1.weight", "backbone.res4.0.conv1.weight"}
    assert set(to_c4({"res5.2.conv3.norm.bias": torch.zeros(1)})) == {"roi_heads.res5.2.conv3.norm.bias"}


@pytest.mark.parametrize("name", ["fc.weight", "layer5.0.conv1.weight", "stem.conv1.weight"])
def test_a_tensor_of_another_network_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        to_detectron2({name: torch.zeros(1)})


def test_a_name_that_detectron2_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="layer1"):
        from_detectron2({"layer1.0.conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", RESNETS)
def test_groups_and_depth_are_those_that_torchvision_builds(name: str) -> None:
    with torch.device("meta"):
        made = torchvision_resnet(name, small_stem=False)
    state = made.state_dict()
    second = state["layer1.0.conv2.weight"]
    groups, width = groups_of(name)
    assert (second.shape[0], second.shape[1]) == (groups * width, groups * width // groups)
    convolutions = sum(".conv" in key for key in state)
    assert depth_of(name) == convolutions + 2  # the stem's and the classifier
