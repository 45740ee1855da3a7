"""IMSVD as a method: a projector to soft variables, their invariance and their joint entropies."""

# V views of an image, n images on this rank, D = M variables x U units

import math
from collections.abc import Collection, Mapping
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collapse import entropy, mean_over_all
from viewmill.methods.heads import Projector
from viewmill.methods.imsvd import TERMS, imsvd_loss, soft_variables
from viewmill.methods.method import Method, MethodLoss, Values


class IMSVD(Method):
    """IMSVD: see `imsvd_loss`; of more than two views the mean over their pairs.

    Its values at a step: weight and temperature, both also of `imsvd_loss`.

    Args:
        projector: to variables x units logits.
        units, similarity, entropy_weights, joint, terms: see `imsvd_loss`.
    """

    views: ClassVar[str] = "imsvd"
    forwards: ClassVar[Literal["all", "size", "view"]] = "view"  # as published

    def __init__(
        self,
        projector: Projector,
        *,
        units: int,
        similarity: str = "inner",
        entropy_weights: str = "per_block",
        joint: str = "cross",
        terms: Collection[str] = TERMS,
    ) -> None:
        super().__init__()
        self.projector = projector
        self.units, self.terms = units, tuple(terms)
        self.similarity, self.entropy_weights, self.joint = similarity, entropy_weights, joint

    def embed(self, representation: Tensor) -> Tensor:
        """(m, F) -> (m, D)."""
        embedding: Tensor = self.projector(representation)
        return embedding

    def loss(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> MethodLoss:
        """Loss of logits (V >= 2, n, D), and its terms, nats."""
        pairs = [
            imsvd_loss(
                first,
                second,
                units=self.units,
                similarity=self.similarity,
                entropy_weights=self.entropy_weights,
                joint=self.joint,
                terms=self.terms,
                group=group,
                **values,
            )
            for first, second in combinations(z, 2)
        ]
        means = [torch.stack(terms).mean() for terms in zip(*pairs, strict=True)]
        names = ("invariance", "diagonal_entropy", "offdiagonal_entropy")
        return MethodLoss(means[0], dict(zip(names, means[1:], strict=True)))

    @torch.no_grad()
    def diagnostics(
        self, z: Tensor, values: Values, targets: Tensor | None = None, group: ProcessGroup | None = None
    ) -> dict[str, Tensor]:
        """Of the first view: shares of variables that are near one-hot, and how evenly units are used.

        one_hot_90, one_hot_99: variables (of images) whose largest q exceeds 0.9 and 0.99.
        unit_usage: entropy of a variable's mean q over its largest value log U, mean over variables: 1 where
        all units are used alike, 0 where all images have the same one.
        sharpness: mean of the largest q; 1/U where q is uniform.
        """
        q_nMU = soft_variables(z[0], self.units, values["temperature"]).view(len(z[0]), -1, self.units)
        largest_nM = q_nMU.amax(dim=2)
        shares = [(largest_nM > limit).float().mean() for limit in (0.9, 0.99)]
        one_hot_90, one_hot_99, sharpness = mean_over_all(torch.stack([*shares, largest_nM.mean()]), group)
        marginals_MU = mean_over_all(q_nMU.mean(dim=0), group)
        usage = entropy(marginals_MU).mean() / math.log(self.units)
        return {
            "one_hot_90": one_hot_90,
            "one_hot_99": one_hot_99,
            "unit_usage": usage,
            "sharpness": sharpness,
        }

    def alarms(self, figures: Mapping[str, float], values: Values) -> dict[str, str]:
        found = {}
        if figures["unit_usage"] < 0.1:
            found["collapse"] = (
                f"variables use {figures['unit_usage']:.3f} of their entropy: all images get the same "
                "values; raise method.weight, and keep diagonal in method.terms"
            )
        if figures["sharpness"] < 1.1 / self.units:
            found["uniform"] = (
                f"the largest of {self.units} units has {figures['sharpness']:.4f}: variables tell "
                "nothing; lower method.temperature or method.weight, or raise optimizer.lr"
            )
        return found
