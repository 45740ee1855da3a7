"""Where the CLS token of a ViT looks: its self-attention, block by block and head by head."""

# n images, L blocks, H heads, h x w patches

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from viewmill.engine.backbones import attention_layers


def cls_attention(backbone: nn.Module, images: Tensor) -> Tensor:
    """The attention of the CLS token to each patch, in every block and head: (n, L, H, h, w) float32.

    It is the softmax that the network itself computes, caught before it is applied; what goes to CLS and
    register tokens is left out, so a map sums to less than 1. HyDeS, figure 3, shows the mean over L (and H).

    Args:
        images: (n, 3, S, S) on the device of the backbone, normalised.

    Raises:
        ValueError: the backbone is no ViT with a CLS token, or its patches fill no rectangle.
    """
    layers = attention_layers(backbone)
    height, width = (side // patch for side, patch in zip(images.shape[2:], _patch(backbone), strict=True))
    with torch.inference_mode(), _listening(layers) as heard:
        backbone(images)
    # (n, H, tokens) of each block: row 0 is what the CLS token takes in.
    first = torch.stack([attention[:, :, 0].float().cpu() for attention in heard], dim=1)
    prefix = first.shape[-1] - height * width
    if prefix < 1:
        raise ValueError(f"{first.shape[-1]} tokens are no {height} x {width} patches and a CLS token")
    return first[..., prefix:].reshape(*first.shape[:-1], height, width)


def _patch(backbone: Any) -> tuple[int, int]:
    """Sides of a patch, pixels."""
    height, width = backbone.patch_embed.patch_size
    return int(height), int(width)


@contextmanager
def _listening(layers: list[Any]) -> Iterator[list[Tensor]]:
    """Gives the list that every block's attention (n, H, tokens, tokens) goes to in a forward pass."""
    heard: list[Tensor] = []
    was_fused = [layer.fused_attn for layer in layers]
    # Fused, the attention never exists as a tensor.
    hooks = [layer.attn_drop.register_forward_hook(lambda _, __, out: heard.append(out)) for layer in layers]
    for layer in layers:
        layer.fused_attn = False
    try:
        yield heard
    finally:
        for layer, hook, fused in zip(layers, hooks, was_fused, strict=True):
            hook.remove()
            layer.fused_attn = fused
