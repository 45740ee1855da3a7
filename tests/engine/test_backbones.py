"""Backbones: shapes, names and refusals."""

import pytest
import timm
import torch
from torch import Tensor
from viewmill.engine.backbones import build_backbone, check_image_sizes


def images(size: int) -> Tensor:
    return torch.zeros(2, 3, size, size)


@pytest.mark.parametrize(
    ("name", "stem", "width"),
    [("resnet18", "imagenet", 512), ("resnet18", "small", 512), ("resnet50", "imagenet", 2048)],
)
def test_a_resnet_gives_one_representation_per_image(name: str, stem: str, width: int) -> None:
    backbone = build_backbone(name, stem=stem, image_size=32)
    assert backbone.num_features == width
    assert backbone(images(32)).shape == (2, width)


def test_a_vit_takes_global_and_local_views() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", image_size=96)
    assert backbone(images(96)).shape == backbone(images(48)).shape == (2, backbone.num_features)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_the_weights_have_timms_names(stem: str) -> None:
    expected = timm.create_model("resnet18", num_classes=0).state_dict()
    assert list(build_backbone("resnet18", stem=stem, image_size=32).state_dict()) == list(expected)


def test_the_small_stem_keeps_the_resolution_at_the_entrance() -> None:
    backbone = build_backbone("resnet18", stem="small", image_size=32)
    assert backbone.forward_features(images(32)).shape == (2, 512, 4, 4)  # type: ignore[operator]


def test_the_generators_seed_decides_the_weights() -> None:
    def weights(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return next(build_backbone("resnet18", stem="small", image_size=32).parameters())

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("name", "stem", "size", "message"),
    [
        ("resnet81", "imagenet", 96, "'resnet81' is no timm model; the nearest is 'resnet18'"),
        ("vit_tiny_patch16_224", "small", 96, "stem=small is for resnet18"),
        ("vit_tiny_patch16_224", "imagenet", 90, "multiples of 16"),
        ("mobilenetv3_small_100", "imagenet", 96, "hidden layer after its features"),
    ],
)
def test_what_a_backbone_does_not_take_is_refused(name: str, stem: str, size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_backbone(name, stem=stem, image_size=size)


def test_local_views_that_do_not_split_into_patches_are_refused() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", image_size=96)
    with pytest.raises(ValueError, match="views of 40 pixels"):
        check_image_sizes(backbone, [96, 40])
