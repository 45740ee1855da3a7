"""Stages of backbones as maps, and as one tensor."""

import pytest
import timm
import torch
import torchvision
from torch import nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns, resized, stacked


def images(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_resnet_has_its_four_layers_and_no_stem() -> None:
    columns = Hypercolumns(build_backbone("resnet18", image_size=64), (64, 96))
    assert columns.names == ["layer1", "layer2", "layer3", "layer4"]
    assert columns.widths == [64, 128, 256, 512]
    assert [stage.size for stage in columns.stages] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_resnet_with_the_small_stem_has_larger_maps_of_the_same_layers() -> None:
    columns = Hypercolumns(build_backbone("resnet18", stem="small", image_size=32), (32, 32))
    assert [stage.size for stage in columns.stages] == [(32, 32), (16, 16), (8, 8), (4, 4)]


def test_the_last_map_of_a_resnet_is_what_its_representation_averages() -> None:
    backbone = build_backbone("test_resnet", image_size=32).eval()
    given = images(64, 64)
    last = Hypercolumns(backbone, (64, 64)).maps(given)[-1]
    torch.testing.assert_close(last.mean(dim=(2, 3)), backbone(given))


def test_a_vit_has_blocks_evenly_spread_up_to_the_last_as_maps_without_the_class_token() -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, dynamic_img_size=True)
    columns = Hypercolumns(backbone.eval(), (64, 48))
    assert columns.names == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    given = images(64, 48)
    last = columns.maps(given)[-1]
    assert last.shape == (2, 192, 4, 3)
    # The final norm apart, they are the tokens in rows.
    tokens = backbone.norm(last.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokens, backbone.forward_features(given)[:, 1:])


@pytest.mark.parametrize("name", ["test_convnext", "test_efficientnet", "test_vit", "densenet121"])
def test_other_nets_of_timm_have_four_stages_at_most(name: str) -> None:
    backbone = timm.create_model(name, num_classes=0)
    side = 160 if name == "test_vit" else 64
    columns = Hypercolumns(backbone, (side, side))
    made = columns(images(side, side), (16, 16))
    assert 2 <= len(columns.names) <= 4
    assert made.shape == (2, sum(columns.widths), 16, 16)


def test_a_torchvision_resnet_has_the_maps_of_timms_with_the_same_weights() -> None:
    ours = build_backbone("resnet18", image_size=64).eval()
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    given = images(64, 64)
    pairs = zip(
        Hypercolumns(ours, (64, 64)).maps(given), Hypercolumns(theirs, (64, 64)).maps(given), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other)


def test_a_trial_leaves_the_backbones_mode_and_statistics_as_they_were() -> None:
    backbone = build_backbone("test_resnet", image_size=32).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    Hypercolumns(backbone, (32, 32))
    assert backbone.training
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_stages_stand_in_their_order_in_one_tensor() -> None:
    fine, coarse = torch.randn(1, 2, 4, 6), torch.full((1, 3, 2, 3), 7.0)
    made = stacked([fine, coarse], (4, 6))
    assert torch.equal(made[:, :2], fine)
    assert torch.equal(made[:, 2:], torch.full((1, 3, 4, 6), 7.0))


@pytest.mark.parametrize("size", [(4, 4), (16, 12)])
def test_resizing_and_a_1x1_convolution_can_change_places(size: tuple[int, int]) -> None:
    maps, convolution = torch.randn(2, 5, 8, 6), nn.Conv2d(5, 3, 1)
    torch.testing.assert_close(convolution(resized(maps, size)), resized(convolution(maps), size))


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(ValueError, match="Sequential: no stages are known of this backbone"):
        Hypercolumns(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), (8, 8))


def test_a_size_that_the_backbone_does_not_take_is_refused_with_its_reason() -> None:
    backbone = build_backbone("test_vit", image_size=32)
    with pytest.raises(ValueError, match=r"does not take views of 40x32 pixels: .*divisible by patch size"):
        Hypercolumns(backbone, (32, 40))
