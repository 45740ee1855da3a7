"""The head of clustering distillation: a projector, a norm, and the directions of the clusters."""

# m rows, R representation width, D feature width, K clusters

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from viewmill.methods.heads import Projector

FEATURE_NORMS = ("l2", "std", "none")


class ClusterHead(nn.Module):
    """Representations (m, R) to cluster logits w_k . f, before the temperature.

    The clusters' directions w have unit length. `centered` takes their mean away after that, so that they sum
    to zero as equations 19 and 20 of clustering distillation need; their lengths are then only nearly one.

    Args:
        projector: R -> D.
        num_clusters: K.
        learned: else the directions stay as they were drawn.
        centered: see above.
        feature_norm: of f, the projector's output: "l2", to unit length; "std", each row to mean 0 and
            standard deviation 1 over its own numbers; "none".

    Raises:
        ValueError: an unknown norm.
    """

    def __init__(
        self,
        projector: Projector,
        num_clusters: int,
        *,
        learned: bool = True,
        centered: bool = False,
        feature_norm: str = "l2",
    ) -> None:
        super().__init__()
        if feature_norm not in FEATURE_NORMS:
            raise ValueError(f"feature_norm '{feature_norm}' is not one of {', '.join(FEATURE_NORMS)}")
        self.projector, self.centered, self.feature_norm = projector, centered, feature_norm
        self.num_clusters = num_clusters
        self.feature_dim: int = projector[-1].out_features  # type: ignore[assignment]
        directions = F.normalize(torch.randn(num_clusters, self.feature_dim), dim=1)
        if learned:
            self.directions = nn.Parameter(directions)
        else:
            self.register_buffer("directions", directions)

    directions: Tensor

    def prototypes(self) -> Tensor:
        """(K, D): the clusters' directions, at least in float32."""
        return self.prototypes_of(self.directions)

    def prototypes_of(self, directions: Tensor) -> Tensor:
        """(K, D): what the prototypes are with these directions, of any length but zero."""
        unit_KD = F.normalize(_at_least_float32(directions), dim=1)
        return unit_KD - unit_KD.mean(dim=0) if self.centered else unit_KD

    def features(self, representation: Tensor) -> Tensor:
        """(m, R) -> (m, D), not normalised."""
        features: Tensor = self.projector(representation)
        return features

    def normalized(self, features: Tensor) -> Tensor:
        """(m, D) -> (m, D) by `feature_norm`, at least in float32."""
        features = _at_least_float32(features)
        if self.feature_norm == "l2":
            return F.normalize(features, dim=1)
        return F.layer_norm(features, features.shape[1:]) if self.feature_norm == "std" else features

    def logits(self, features: Tensor) -> Tensor:
        """(m, D) -> (m, K), at least in float32."""
        # Divided by a temperature of 0.04, bfloat16's 8 bits would be errors of a tenth of a nat.
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(self.normalized(features), self.prototypes())

    def forward(self, representation: Tensor) -> Tensor:
        """(m, R) -> (m, K)."""
        return self.logits(self.features(representation))


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
