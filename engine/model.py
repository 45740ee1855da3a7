"""The student: a backbone and a method's head, from the views of a micro-batch to its embeddings."""

import itertools
from typing import cast

import torch
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.config import MethodConfig, ModelConfig
from viewmill.methods.method import METHODS, HyDeS


class Student(nn.Module):
    """Backbone and method head as one module, so that one engine splits the weights of both."""

    def __init__(self, backbone: nn.Module, method: HyDeS, channels_last: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.method = method
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.layout)

    def forward(self, views: list[Tensor]) -> Tensor:
        """Embeddings of all views, in the order of `views`.

        Views of one size go through the backbone together: one forward per resolution, so BatchNorm sees
        all of them at once. The head sees every view at once.

        Args:
            views: V tensors (n, 3, S, S), views of equal S beside each other; any float type.

        Returns:
            (V, n, D) in the type of the weights, not normalised.
        """
        dtype = next(self.backbone.parameters()).dtype
        representations = []
        for _, group in itertools.groupby(views, key=lambda view: view.shape[-1]):
            images = torch.cat(list(group)).to(dtype=dtype, memory_format=self.layout)
            representations.append(self.backbone(images))  # (views of this size * n, F)
        embeddings = self.method.embed(torch.cat(representations))  # (V n, D)
        return embeddings.view(len(views), len(views[0]), -1)


def build_method(config: MethodConfig, representation_dim: int) -> HyDeS:
    """The method's module with freshly initialised head."""
    return METHODS[config.name](
        representation_dim,
        kappa=config.kappa,
        alpha=config.alpha,
        beta=config.beta,
        projector_hidden=config.projector.hidden,
        projector_dim=config.projector.dim,
        projector_layers=config.projector.layers,
    )


def build_student(model: ModelConfig, method: MethodConfig, *, image_size: int, seed: int) -> Student:
    """Backbone and head drawn from `seed`: the same weights on every rank, device and world size.

    Raises:
        ValueError: the backbone is unknown, or does not take this stem or size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = build_backbone(model.backbone, stem=model.stem, image_size=image_size)
        head = build_method(method, cast(int, backbone.num_features))
    return Student(backbone, head, channels_last=model.channels_last)
