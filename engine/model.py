"""The student: a backbone and a method's head, from the views of a micro-batch to its embeddings."""

import itertools
from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone, checkpoint_activations
from viewmill.engine.config import ModelConfig
from viewmill.engine.method_config import (
    DistillConfig,
    HydesConfig,
    ImsvdConfig,
    MethodConfig,
    SupervisedConfig,
)
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.families.distillation import Distillation
from viewmill.methods.families.hydes import HyDeS
from viewmill.methods.families.imsvd import IMSVD
from viewmill.methods.families.supervised import Supervised
from viewmill.methods.heads import Projector
from viewmill.methods.method import Method
from viewmill.methods.refresh import Refresh


class Student(nn.Module):
    """Backbone and method head as one module, so that one engine splits the weights of both.

    Args:
        at_once: the views that go through together, and so what a BatchNorm sees: "all" (the head all of
            them, the backbone those of one size), "size" or "view" (both). None: as the method wants it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        method: Method,
        channels_last: bool = False,
        *,
        at_once: Literal["all", "size", "view"] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.method = method
        self.at_once = at_once or method.forwards
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.layout)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Embeddings of all views, in the order of `views`.

        Args:
            views: V tensors (n, 3, S, S), views of equal S beside each other; any float type.

        Returns:
            (V, n, D) in the type that the head gives, not normalised.
        """
        embeddings = [
            self.method.embed(represent(self.backbone, part, self.layout))
            for part in parts_of(views, self.at_once)
        ]
        return torch.cat(embeddings).view(len(views), len(views[0]), -1)


def parts_of(views: list[Tensor], at_once: str) -> list[list[Tensor]]:
    """The views in the groups that go through together: "all", "size" (of equal S), or "view"."""
    if at_once == "all":
        return [views]
    if at_once == "view":
        return [[view] for view in views]
    return [list(part) for _, part in itertools.groupby(views, key=lambda view: view.shape[-1])]


def represent(backbone: nn.Module, views: list[Tensor], layout: torch.memory_format) -> Tensor:
    """(V n, F) of V views (n, 3, S, S): one forward for each size, in the type of the weights."""
    dtype = next(backbone.parameters()).dtype
    representations = []
    for group in parts_of(views, "size"):
        images = torch.cat(group).to(dtype=dtype, memory_format=layout)
        representations.append(backbone(images))  # (views of this size * n, F)
    return torch.cat(representations)


def build_method(config: MethodConfig, representation_dim: int) -> Method:
    """The method's module with freshly initialised head."""
    build: Callable[[Any, int], Method] = BUILDERS[config.name]
    return build(config, representation_dim)


def _hydes(config: HydesConfig, representation_dim: int) -> Method:
    head = config.projector
    return HyDeS(Projector(representation_dim, head.hidden, head.dim, head.layers))


def _imsvd(config: ImsvdConfig, representation_dim: int) -> Method:
    head, width = config.projector, config.variables * config.units
    return IMSVD(
        Projector(representation_dim, head.hidden, width, head.layers),
        units=config.units,
        similarity=config.similarity,
        entropy_weights=config.entropy_weights,
        joint=config.joint,
        terms=config.terms,
    )


def _distill(config: DistillConfig, representation_dim: int) -> Method:
    head = config.projector
    clusters = ClusterHead(
        Projector(representation_dim, head.hidden, head.dim, head.layers),
        config.num_clusters,
        learned=config.clusters == "learned",
        centered=config.center_clusters,
        feature_norm=config.feature_norm,
    )
    scope = config.scope.model_dump(exclude={"kind"})  # momentum, every_epochs, or nothing
    return Distillation(
        clusters,
        normalization=config.normalization,
        scope=config.scope.kind,
        prior_iterations=config.prior_iterations,
        kind=config.kind,
        refresh=None if config.refresh is None else Refresh(**config.refresh.model_dump()),
        **scope,
    )


def _supervised(config: SupervisedConfig, representation_dim: int) -> Method:
    return Supervised(representation_dim, config.num_classes)


BUILDERS: dict[str, Callable[..., Method]] = {
    "hydes": _hydes,
    "imsvd": _imsvd,
    "distill": _distill,
    "supervised": _supervised,
}


def build_student(model: ModelConfig, method: MethodConfig, *, image_size: int, seed: int) -> Student:
    """Backbone and head drawn from `seed`: the same weights on every rank, device and world size.

    Raises:
        ValueError: the backbone is unknown, or does not take this stem, size or option.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(model.backbone, stem=model.stem, image_size=image_size)
        head = build_method(method, cast(int, backbone.num_features))
    if model.checkpoint_activations:
        checkpoint_activations(backbone, model.backbone)
    if model.compile:
        # In place, so that weights keep their names; for each size of views by itself, as there are few.
        backbone.compile(dynamic=False)
    return Student(backbone, head, channels_last=model.channels_last, at_once=model.batchnorm_views)
