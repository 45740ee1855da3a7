"""Attention of the CLS token: a network that was made to look at one patch lights that patch."""

import pytest
import torch
from torch import nn
from viewmill.engine.backbones import attention_layers, build_backbone
from viewmill.engine.evaluation.pictures.attention import cls_attention

PATCHES, SIDE = 3, 48  # 3 x 3 patches of 16 pixels
LOOKED_AT = (1, 2)  # row and column


@pytest.fixture(scope="module")
def looking() -> nn.Module:
    """A ViT whose keys are large at one patch, by its place in the position embedding, and 0 elsewhere."""
    backbone = build_backbone("test_vit", image_size=SIDE).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        width = backbone.pos_embed.shape[-1]
        # LayerNorm takes a mean and a scale away: what is left of the pattern is the pattern.
        pattern = torch.tensor([1.0, -1.0]).repeat(width // 2)
        backbone.pos_embed[0, 1 + LOOKED_AT[0] * PATCHES + LOOKED_AT[1]] = pattern
        for block in backbone.blocks:
            block.norm1.weight.fill_(1)
            block.attn.qkv.bias[:width] = 1  # every query
            # every key: how far the token is the pattern
            block.attn.qkv.weight[width : 2 * width] = pattern / width
    return backbone


def test_the_patch_that_is_looked_at_lights(looking: nn.Module) -> None:
    found = cls_attention(looking, torch.zeros(2, 3, SIDE, SIDE))
    blocks, heads = len(looking.blocks), looking.blocks[0].attn.num_heads  # type: ignore[index, arg-type]
    assert found.shape == (2, blocks, heads, PATCHES, PATCHES)
    for attention in found.flatten(0, 2):
        assert divmod(int(attention.argmax()), PATCHES) == LOOKED_AT
        rest = attention[attention != attention.max()]
        torch.testing.assert_close(rest, rest[:1].expand_as(rest))  # the others are all alike
    assert (found.sum(dim=(-1, -2)) < 1).all()  # what the CLS token gives itself is left out


def test_a_network_without_keys_looks_everywhere_alike() -> None:
    backbone = build_backbone("test_vit", image_size=SIDE).eval()
    with torch.no_grad():
        for block in backbone.blocks:  # type: ignore[union-attr]
            block.attn.qkv.weight.zero_()  # type: ignore[union-attr]
            block.attn.qkv.bias.zero_()  # type: ignore[union-attr]
    found = cls_attention(backbone, torch.randn(1, 3, SIDE, SIDE))
    torch.testing.assert_close(found, torch.full_like(found, 1 / (1 + PATCHES**2)))


def test_the_network_is_left_as_it_was(looking: nn.Module) -> None:
    layers = attention_layers(looking)
    before = [layer.fused_attn for layer in layers]
    hooks = [len(layer.attn_drop._forward_hooks) for layer in layers]
    cls_attention(looking, torch.zeros(1, 3, SIDE, SIDE))
    assert [layer.fused_attn for layer in layers] == before
    assert [len(layer.attn_drop._forward_hooks) for layer in layers] == hooks


def test_a_network_without_a_cls_token_is_refused() -> None:
    with pytest.raises(ValueError, match="a ResNet without a CLS token"):
        cls_attention(build_backbone("test_resnet", image_size=32), torch.zeros(1, 3, 32, 32))
