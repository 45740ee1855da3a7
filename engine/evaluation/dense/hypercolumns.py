"""Hypercolumns: the outputs of a backbone's stages, resized to one size and stacked.

Source: Hariharan et al. 2015, Hypercolumns for object segmentation and fine-grained localization, section 3.
"""

# n images, H x W pixels of a view, C channels of all stages together; a stage has its own c, h and w

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_STAGES = 4
RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")  # of torchvision, which lists no feature levels

Size = tuple[int, int]  # height, width, pixels


@dataclass(frozen=True)
class Stage:
    """One stage of a backbone, and what its map is like for views of a given size."""

    name: str  # the module's, in the backbone
    width: int  # channels
    size: Size  # of its map


class Hypercolumns:
    """The stages of a frozen backbone, as maps or as one tensor.

    Of a net that halves its maps these are the last four levels that timm names (a ResNet's layer1 to
    layer4: the stem is none); of a ViT, whose maps are alike, four blocks evenly spread up to the last,
    without its class token. A torchvision ResNet is taken by the same names.

    Nothing is detached: gradients reach the backbone unless the caller forbids them. The backbone stays as
    it is, in training or evaluation.

    Args:
        backbone: (n, 3, H, W) to anything.
        size: H and W that it will be given.

    Raises:
        ValueError: no stages are known of this backbone, or it does not take views of this size.
    """

    def __init__(self, backbone: nn.Module, size: Size) -> None:
        self.backbone = backbone
        self.names, self._maps = _stages_of(backbone)
        self.stages = self._tried(size)

    @property
    def widths(self) -> list[int]:
        """Channels of each stage."""
        return [stage.width for stage in self.stages]

    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, H, W) -> (n, c, h, w) of each stage, as the backbone makes them."""
        return self._maps(images)

    def __call__(self, images: Tensor, size: Size) -> Tensor:
        """(n, 3, H, W) -> (n, C, *size), the stages in their order."""
        return stacked(self.maps(images), size)

    def _tried(self, size: Size) -> list[Stage]:
        """What the stages are, by a view of zeros; BatchNorm statistics are left alone."""
        weight = next(self.backbone.parameters())
        was_training = self.backbone.training
        self.backbone.eval()
        try:
            with torch.no_grad():
                maps = self.maps(torch.zeros(1, 3, *size, dtype=weight.dtype, device=weight.device))
        except (RuntimeError, ValueError, AssertionError, TypeError) as error:
            raise ValueError(
                f"this {type(self.backbone).__name__} does not take views of {size[1]}x{size[0]} pixels: "
                f"{' '.join(str(error).split())[:200]}; give sides that it was made for"
            ) from error
        finally:
            self.backbone.train(was_training)
        for name, found in zip(self.names, maps, strict=True):
            if found.ndim != 4:
                raise ValueError(
                    f"stage {name} of this {type(self.backbone).__name__} is no map but "
                    f"{tuple(found.shape)}; choose a ResNet, a ConvNeXt or a ViT"
                )
        pairs = zip(self.names, maps, strict=True)
        return [Stage(name, found.shape[1], (found.shape[2], found.shape[3])) for name, found in pairs]


def stacked(maps: Sequence[Tensor], size: Size) -> Tensor:
    """Maps (n, c, h, w) of several stages -> (n, C, *size)."""
    return torch.cat([resized(one, size) for one in maps], dim=1)


def resized(maps: Tensor, size: Size) -> Tensor:
    """(n, c, h, w) -> (n, c, *size), bilinear between the centres of pixels; what shrinks is averaged.

    It is linear in the maps and the same for every channel, so it may come before a 1 x 1 convolution or
    after it.
    """
    if maps.shape[-2:] == size:
        return maps
    shrinks = maps.shape[-2] > size[0] or maps.shape[-1] > size[1]
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=shrinks)


def _stages_of(backbone: nn.Module) -> tuple[list[str], Callable[[Tensor], list[Tensor]]]:
    """Names of the stages, and what makes their maps.

    Raises:
        ValueError: none are known.
    """
    levels = _levels_of(backbone)
    if hasattr(backbone, "forward_intermediates") and levels:
        chosen = _chosen(levels)
        indices = [index for index, _ in chosen]
        return [name for _, name in chosen], lambda images: _intermediates(backbone, images, indices)
    known = dict(backbone.named_modules())
    names = [name for _, name in _chosen(levels)] if levels else list(RESNET_STAGES)
    if not set(names) <= known.keys():
        raise ValueError(
            f"{type(backbone).__name__}: no stages are known of this backbone, so it has no hypercolumns; "
            "choose a ResNet, a ConvNeXt or a ViT of timm, or a torchvision ResNet"
        )
    modules = [known[name] for name in names]
    return names, lambda images: _hooked(backbone, images, modules)


def _levels_of(backbone: Any) -> list[dict[str, Any]]:
    """timm's list of feature levels: module, channels, reduction; empty where there is none."""
    found = getattr(backbone, "feature_info", None) or []
    return list(getattr(found, "info", found))


def _chosen(levels: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """Place and module of the levels that are stages."""
    places = range(len(levels))
    count = min(NUM_STAGES, len(levels))
    if len({level["reduction"] for level in levels}) == 1:  # all alike: a ViT
        picked = [len(levels) * (stage + 1) // count - 1 for stage in range(count)]
    else:
        picked = list(places[-count:])
    return [(place, levels[place]["module"]) for place in picked]


def _intermediates(backbone: Any, images: Tensor, indices: list[int]) -> list[Tensor]:
    """By timm's own way, which turns tokens and channels-last maps into (n, c, h, w)."""
    found = backbone.forward_intermediates(
        images, indices=indices, norm=False, output_fmt="NCHW", intermediates_only=True
    )
    return cast(list[Tensor], list(found))


def _hooked(backbone: nn.Module, images: Tensor, modules: Sequence[nn.Module]) -> list[Tensor]:
    """What these modules give in one forward of the backbone."""
    found: dict[int, Tensor] = {}

    def keep(place: int) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _given, output: found.__setitem__(place, output)

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        backbone(images)
    finally:
        for handle in handles:
            handle.remove()
    return [found[place] for place in range(len(modules))]
