"""Backbones by timm's names: images (n, 3, S, S) to representations (n, F)."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import timm
from timm.models import group_parameters
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def build_backbone(name: str, *, stem: str = "imagenet", image_size: int) -> nn.Module:
    """A freshly initialised timm backbone without classifier, drawn from torch's generator.

    Args:
        name: timm's name; nothing is downloaded.
        stem: "small" replaces a ResNet's 7 x 7 stride-2 convolution and pooling by one 3 x 3 convolution
            (for images of 32 to 64 pixels), keeping the names of its weights.
        image_size: side of the global views, pixels; a ViT's position grid has this size, and other
            sizes interpolate it.

    Returns:
        Module with `num_features` = F, whose state has timm's names.

    Raises:
        ValueError: unknown name (the nearest is named), a stem or size that the backbone does not take.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.0)[0]
        raise ValueError(f"model.backbone={name!r} is no timm model; the nearest is {near!r}")
    is_vit = timm.models.is_model_in_modules(name, ("vision_transformer", "deit"))
    settings = {"img_size": image_size, "dynamic_img_size": True} if is_vit else {}
    backbone: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **settings)
    check_image_sizes(backbone, [image_size])
    if stem == "small":
        _use_small_stem(backbone, name)
    if backbone.head_hidden_size != backbone.num_features:
        raise ValueError(f"model.backbone={name!r} has a hidden layer after its features; choose another")
    return backbone


def layers_of(backbone: Any) -> dict[str, int]:
    """The layer of each parameter, from 0 at the images; none where timm does not know the layers."""
    if not hasattr(backbone, "group_matcher"):
        return {}
    layers: dict[str, int] = group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
    return layers


def checkpoint_activations(backbone: Any, name: str) -> None:
    """From now on each block keeps its input alone until its backward, which computes the block again.

    Raises:
        ValueError: timm cannot do that with this backbone.
    """
    try:
        backbone.set_grad_checkpointing(True)
    except (AttributeError, AssertionError):
        raise ValueError(
            f"model.checkpoint_activations: timm cannot with model.backbone={name!r}; leave it at false, and "
            "raise accumulation to save memory"
        ) from None


def attention_layers(backbone: nn.Module) -> list[nn.Module]:
    """The self-attention of each block of a ViT, the one next to the images first.

    Raises:
        ValueError: it is no ViT, or has no CLS token.
    """
    if not isinstance(backbone, VisionTransformer) or backbone.cls_token is None:
        kind = type(backbone).__name__
        raise ValueError(f"attention: a {kind} without a CLS token; maps are of a ViT that has one")
    return [block.attn for block in backbone.blocks]


def check_image_sizes(backbone: nn.Module, sizes: Iterable[int]) -> None:
    """Raises ValueError where a view's side is not a multiple of a ViT's patch, pixels."""
    if not isinstance(backbone, VisionTransformer):
        return
    patch = backbone.patch_embed.patch_size[0]
    for size in sizes:
        if size % patch:
            raise ValueError(
                f"views of {size} pixels do not split into this ViT's patches of {patch}; choose a "
                f"views.preset NAME@S whose global and local sides are multiples of {patch}"
            )


def _use_small_stem(backbone: nn.Module, name: str) -> None:
    """Strides of 4 at the entrance go, so that 32 pixels leave 4 x 4 and not 1 x 1 at the end.

    Source: the CIFAR-10 variant of Chen et al., A Simple Framework for Contrastive Learning, appendix B.9.
    """
    if not isinstance(backbone, ResNet) or not isinstance(backbone.conv1, nn.Conv2d):
        raise ValueError(
            f"model.backbone={name!r} has no such stem; stem=small is for resnet18, resnet50, ..."
        )
    width = backbone.conv1.out_channels
    backbone.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(backbone.conv1.weight, mode="fan_out", nonlinearity="relu")
    backbone.maxpool = nn.Identity()


def is_vision_transformer(backbone: nn.Module) -> bool:
    """Whether its position grid has a size, which a config.json must give."""
    return isinstance(backbone, VisionTransformer)


def load_local_folder(folder: Path) -> nn.Module:
    """The backbone of a folder with config.json and model.safetensors, as timm itself reads it."""
    made: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return made
