"""The optimisers: which parameters decay, at which rate they learn, what is kept of them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from viewmill.engine.backbones import layers_of
from viewmill.engine.lars import LARS
from viewmill.engine.optimizer_config import AdamWConfig, LARSConfig, OptimizerConfig
from viewmill.engine.scheduled import numbers_of


class Rates(NamedTuple):
    """What an optimiser is told for each step; AdamW has betas, and no momentum."""

    lr: float
    weight_decay: float
    momentum: float | None


def first_rates(config: OptimizerConfig) -> Rates:
    """Those that the settings begin with, the learning rate at its peak."""
    momentum = None if isinstance(config, AdamWConfig) else numbers_of(config.momentum)[0]
    return Rates(config.lr, numbers_of(config.weight_decay)[0], momentum)


class SkippingAdamW(torch.optim.AdamW):
    """AdamW that does nothing while `overflow` is set, which DeepSpeed counts as a skipped step."""

    overflow = False

    def step(self, closure: Any = None) -> Any:
        return None if self.overflow else super().step(closure)


class SkippingSGD(torch.optim.SGD):
    """SGD that does nothing while `overflow` is set, which DeepSpeed counts as a skipped step."""

    overflow = False

    def step(self, closure: Any = None) -> Any:
        return None if self.overflow else super().step(closure)


Optimizer = SkippingAdamW | SkippingSGD | LARS


def state_kinds(config: OptimizerConfig) -> dict[str, str]:
    """What the optimiser keeps of a parameter: a number for each of its own, or one for all of them."""
    if isinstance(config, AdamWConfig):
        return {"exp_avg": "elementwise", "exp_avg_sq": "elementwise", "step": "scalar"}
    return {"momentum_buffer": "elementwise"} if any(numbers_of(config.momentum)) else {}


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Over the trainable parameters, with a learning rate and weight decay of 0 until `set_rates`.

    DeepSpeed's bf16 stage 0 takes a step while it is set up, which must leave the weights alone.

    Weight decay is for matrices and kernels, not for biases and norms; so is LARS's adaptation. With
    `layer_decay` below 1 each layer of `module.backbone` learns at that share of the rate of the next one.

    Raises:
        ValueError: `layer_decay`, and timm does not know the layers of the backbone.
    """
    scales = lr_scales(module, config.layer_decay)
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            members.setdefault((-scales.get(name, 1.0), weight.ndim < 2), []).append(weight)
    groups = [
        {"params": weights, "lr_scale": -scale, "decays": not is_vector}
        for (scale, is_vector), weights in sorted(members.items(), key=lambda item: item[0])
    ]
    if isinstance(config, AdamWConfig):
        return SkippingAdamW(groups, lr=0.0, weight_decay=0.0, betas=config.betas, eps=config.eps)
    momentum = numbers_of(config.momentum)[0]
    if isinstance(config, LARSConfig):
        for group in groups:
            group |= {"adapts": group["decays"], "weight_decay": 0.0}
        return LARS(groups, lr=0.0, momentum=momentum, trust=config.trust)
    return SkippingSGD(groups, lr=0.0, weight_decay=0.0, momentum=momentum, nesterov=config.nesterov)


def lr_scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """What the learning rate is multiplied by, of each parameter of the backbone by its name in the module.

    With L layers by timm's count, layer l has layer_decay^(L - l); the head is behind the last one and has 1.

    Raises:
        ValueError: timm does not know the backbone's layers.
    """
    if layer_decay == 1.0:
        return {}
    layers = layers_of(getattr(module, "backbone", None))
    if not layers:
        raise ValueError(
            f"optimizer.layer_decay={layer_decay}: timm names no layers of this backbone; leave it at 1"
        )
    last = max(layers.values()) + 1
    return {f"backbone.{name}": layer_decay ** (last - layer) for name, layer in layers.items()}


def set_rates(optimizer: Optimizer, rates: Rates) -> None:
    """The numbers of the steps to come."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr * group["lr_scale"]
        group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0
        if rates.momentum is not None:
            group["momentum"] = rates.momentum


@torch.no_grad()
def reset_state(optimizer: Optimizer, config: OptimizerConfig, weights: Iterable[Tensor]) -> None:
    """The state before the first step, there from the start: a checkpoint of step 0 is then like any.

    A momentum of zero is none: the first step adds its gradient to it.

    Args:
        weights: all that the optimiser moves on this rank. At stage 3 its groups have them in a step alone.
    """
    optimizer.state.clear()
    for weight in weights:
        optimizer.state[weight] = {
            kind: torch.zeros_like(weight, memory_format=torch.preserve_format)
            if extent == "elementwise"
            else torch.zeros((), dtype=torch.float32)
            for kind, extent in state_kinds(config).items()
        }
