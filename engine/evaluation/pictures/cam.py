"""Which parts of an image a score comes from: SmoothGrad-CAM++ and Grad-CAM, by torchcam."""

# n images of S x S pixels, F features, C classes, h x w places of a stage's maps

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from viewmill.engine.evaluation.dense.hypercolumns import Stage
from viewmill.engine.evaluation.linear_probe import LinearProbe

SAMPLES, NOISE = 8, 0.3  # noisy copies of an image; their standard deviation, in units of normalised pixels
NEEDS = "cam: torchcam is not installed; run on Python 3.11 or later: pip install 'viewmill[pictures]'"


@dataclass(frozen=True)
class Maps:
    """Heat of each place, 0 to 1 within an image: of every stage by name, and of all of them as one."""

    stages: dict[str, Tensor]  # (n, h, w) float32
    fused: Tensor  # (n, h', w'), of the finest stage's size


class Score(nn.Module):
    """The score of each image as the one output of a network: <f(x), direction of the image>, (n, 1)."""

    def __init__(self, backbone: nn.Module, directions: Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.directions = directions  # (n, F)

    def forward(self, images: Tensor) -> Tensor:
        return (self.backbone(images) * self.directions).sum(dim=1, keepdim=True)


def own_directions(features: Tensor, rows: Sequence[int]) -> Tensor:
    """What sets an image apart: its direction less the data set's mean direction, (n, F) of length 1.

    The score <f(x), d> of a backbone without classes: how far a part of the image moves its representation
    away from what all images have in common. (The cosine with the image itself would not do: it is at its
    maximum there, so its gradient is zero.)

    Args:
        features: (N, F) of the data set.

    Raises:
        ValueError: an image whose representation is the mean direction: nothing sets it apart.
    """
    unit = F.normalize(features.double(), dim=1)
    apart = unit[list(rows)] - unit.mean(dim=0)
    lengths = apart.norm(dim=1, keepdim=True)
    if (lengths < 1e-6).any():
        raise ValueError("cam: all images have the same representation, so that no part of one sets it apart")
    return (apart / lengths).float()


def class_directions(probe: LinearProbe, labels: Sequence[int]) -> Tensor:
    """Along which the logit of each image's class grows, (n, F): the weights of a linear probe."""
    weights = probe.weight / probe.std[:, None]  # 0 where the spread is infinite
    return weights.T[list(labels)].cpu()


def check_maps(backbone: nn.Module, stages: Sequence[Stage], images: Tensor) -> None:
    """Raises ValueError: a stage's output is no map (n, C, h, w), as of a ViT, or with channels last."""
    shapes: dict[str, tuple[int, ...]] = {}
    modules = dict(backbone.named_modules())
    hooks = [
        modules[stage.name].register_forward_hook(
            lambda _, __, output, name=stage.name: shapes.update({name: tuple(output.shape)})
        )
        for stage in stages
    ]
    try:
        with torch.no_grad():
            backbone(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    for stage in stages:
        if shapes[stage.name] != (1, stage.width, *stage.size):
            raise ValueError(
                f"cam: stage {stage.name} of this {type(backbone).__name__} gives {shapes[stage.name]}, "
                "which is no map (images, channels, height, width); take a CNN, or the picture attention "
                "of a ViT"
            )


def is_installed() -> bool:
    """Whether torchcam is here."""
    return importlib.util.find_spec("torchcam") is not None


def smooth_grad_cam(
    backbone: nn.Module,
    stages: Sequence[Stage],
    images: Tensor,
    directions: Tensor,
    ids: Sequence[int],
    *,
    samples: int = SAMPLES,
    noise: float = NOISE,
    seed: int = 0,
) -> Maps:
    """SmoothGrad-CAM++ of the score <f(x), direction> in several stages.

    Source: Omeiza et al. 2019, Smooth Grad-CAM++, as torchcam implements it; HyDeS, figure 2, shows it
    across all layers. Fused, a place has the largest heat of any stage.

    Args:
        backbone: in evaluation mode, as `images` on the same device.
        stages: see `Hypercolumns`; their outputs are maps (n, C, h, w).
        images: (n, 3, S, S) normalised; directions: (n, F).
        ids: of the samples: the noise of an image depends on its id and the seed alone.

    Raises:
        ImportError: torchcam is not installed.
        ValueError: the backbone has no feature maps: a ViT, or one that keeps its channels last.
        RuntimeError: what the network makes of an image is not finite.
    """
    extractor = _torchcam().SmoothGradCAMpp
    check_maps(backbone, stages, images)
    found: list[list[Tensor]] = []
    for image, direction, sample in zip(images, directions, ids, strict=True):
        network = Score(backbone, direction[None].to(image.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(np.random.SeedSequence([seed, sample]).generate_state(1)[0]))
            layers = [f"backbone.{stage.name}" for stage in stages]
            with extractor(network, layers, num_samples=samples, std=noise) as cam:
                scores = network(image[None])
                _refuse_not_finite(scores, sample)
                found.append([stage.float().cpu() for stage in cam(0, scores)])
    per_stage = [torch.cat(maps) for maps in zip(*found, strict=True)]
    named = {stage.name: maps for stage, maps in zip(stages, per_stage, strict=True)}
    return Maps(named, extractor.fuse_cams(per_stage))


def grad_cam(network: nn.Module, stage: str, images: Tensor, outputs: Sequence[int]) -> Tensor:
    """Grad-CAM of one output of the network an image, in one stage: (n, h, w), 0 to 1 within an image.

    Source: Selvaraju et al. 2017; IMSVD, figure 5, shows it of a unit's logit.

    Args:
        network: images -> (n, D), in evaluation mode.
        outputs: which of the D, an image each.

    Raises:
        ImportError, RuntimeError: as `smooth_grad_cam`.
    """
    with _torchcam().GradCAM(network, stage) as cam:
        scores = network(images.requires_grad_())
        for sample, row in enumerate(scores):
            _refuse_not_finite(row, sample)
        (found,) = cam(list(outputs), scores)
    return found.float().cpu()


def _torchcam() -> Any:
    try:
        from torchcam import methods
    except ImportError as error:
        raise ImportError(NEEDS) from error
    return methods


def _refuse_not_finite(scores: Tensor, sample: int) -> None:
    """Raises RuntimeError: names the sample. (torchcam takes what is no number for 0.)"""
    if not torch.isfinite(scores).all():
        raise RuntimeError(
            f"cam: the network's output for sample {sample} is not finite; the weights have diverged, take "
            "an earlier checkpoint"
        )
