"""Which parameters an optimiser moves at which rate, and which decay."""

import pytest
import torch
from torch import nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.optimizer_config import AdamWConfig, LARSConfig, SGDConfig
from viewmill.engine.optimizers import Optimizer, Rates, build_optimizer, first_rates, lr_scales, set_rates


class Small(nn.Module):
    """A backbone of timm's, with a head behind it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = build_backbone(name, image_size=32)
        self.head = nn.Linear(self.backbone.num_features, 2)


def told(module: nn.Module, optimizer: Optimizer, key: str) -> dict[str, float]:
    names = {id(weight): name for name, weight in module.named_parameters()}
    return {names[id(w)]: group[key] for group in optimizer.param_groups for w in group["params"]}


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_each_layer_learns_slower_than_the_next_and_the_head_at_the_full_rate(name: str) -> None:
    module, config = Small(name), AdamWConfig(layer_decay=0.5)
    optimizer = build_optimizer(module, config)
    set_rates(optimizer, Rates(0.1, 0.3, None))
    rates = told(module, optimizer, "lr")
    assert rates["head.weight"] == rates["head.bias"] == 0.1
    scales = lr_scales(module, 0.5)
    assert scales.keys() == {name for name, _ in module.named_parameters() if name.startswith("backbone.")}
    assert all(rates[name] == pytest.approx(0.1 * scale) for name, scale in scales.items())
    first = next(name for name, _ in module.backbone.named_parameters())
    assert scales[f"backbone.{first}"] == min(scales.values())
    assert max(scales.values()) == 0.5


def test_the_layers_of_a_vit_are_its_blocks() -> None:
    scales = lr_scales(Small("test_vit"), 0.5)
    depth = 1 + max(int(name.split(".")[2]) for name in scales if name.startswith("backbone.blocks."))
    for block in range(depth):
        assert scales[f"backbone.blocks.{block}.mlp.fc1.weight"] == 0.5 ** (depth - block)
    assert scales["backbone.pos_embed"] == scales["backbone.patch_embed.proj.weight"]


def test_every_parameter_is_in_one_group_and_a_frozen_one_in_none() -> None:
    module = Small("test_vit")
    module.backbone.pos_embed.requires_grad_(False)
    found = told(module, build_optimizer(module, AdamWConfig(layer_decay=0.9)), "lr")
    assert found.keys() == {name for name, w in module.named_parameters() if w.requires_grad}


def test_layers_that_timm_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match=r"optimizer.layer_decay=0.5: timm names no layers of this backbone"):
        build_optimizer(nn.Linear(2, 2), SGDConfig(name="sgd", lr=0.1, layer_decay=0.5))


def test_lars_adapts_what_decays() -> None:
    module, config = Small("test_resnet"), LARSConfig(name="lars", lr=1.0, weight_decay=0.1)
    optimizer = build_optimizer(module, config)
    set_rates(optimizer, first_rates(config))
    matrices = {name: weight.ndim >= 2 for name, weight in module.named_parameters()}
    assert told(module, optimizer, "adapts") == matrices
    assert told(module, optimizer, "weight_decay") == {name: 0.1 * one for name, one in matrices.items()}


def test_before_the_first_rates_a_step_moves_nothing() -> None:
    for config in (AdamWConfig(), SGDConfig(name="sgd", lr=0.1), LARSConfig(name="lars", lr=0.1)):
        module = nn.Linear(3, 2)
        before = module.weight.detach().clone()
        optimizer = build_optimizer(module, config)
        module(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert torch.equal(module.weight, before)
