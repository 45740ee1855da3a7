"""Backbones to export, as an evaluation loads them: untrained, with statistics that are not 0 and 1."""

from pathlib import Path

import torch
from torch import nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.pipelines.plans.spec import IMAGENET_MEAN, IMAGENET_STD


def source(
    name: str, *, stem: str = "imagenet", image_size: int = 64, folder: Path | None = None
) -> BackboneSource:
    """A backbone whose norms differ from channel to channel, so that a mix-up of tensors changes features."""
    torch.manual_seed(3)
    backbone = build_backbone(name, stem=stem, image_size=image_size)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return BackboneSource(
        name="step_000010",
        backbone=backbone.eval(),
        build=lambda: build_backbone(name, stem=stem, image_size=image_size),
        about={"backbone": name, "stem": stem, "image_size": image_size},
        image_size=image_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        step=10,
        folder=folder,
        path=None,
    )
