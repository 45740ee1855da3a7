"""Prototypes of a training made anew from a pass of the teacher over the data set."""

# D feature width, K clusters

import math

from torch import Tensor
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.prototypes import PrototypeAccumulator

KINDS = ("kmeans", "em")


class Refresh:
    """When prototypes are made anew, and how: one step of spherical k-means or of EM, by all samples.

    Source: clustering distillation, end of section 3 (weight vectors updated together with the priors, using
    all training data). The responsibilities are the teacher's own: its nearest cluster ("kmeans"), or its
    posteriors before any prior ("em"). Centred prototypes give the same ones as the directions that they were
    made of, since what centring takes away is the same for all clusters.

    Args:
        kind: one of the two.
        every_epochs: before every so many epochs, >= 1; not before the first, when the network has learned
            nothing yet.

    Raises:
        ValueError: an unknown kind, or every_epochs below 1.
    """

    def __init__(self, kind: str, every_epochs: int = 1) -> None:
        if kind not in KINDS or every_epochs < 1:
            raise ValueError(
                f"need a kind of {', '.join(KINDS)} and every_epochs >= 1, got {kind} and {every_epochs}"
            )
        self.kind, self.every_epochs = kind, every_epochs

    def is_due(self, epoch: int) -> bool:
        return epoch > 0 and epoch % self.every_epochs == 0

    def sums(self, head: ClusterHead, temperature: float) -> PrototypeAccumulator:
        """Empty sums over normalised features (n, D) of this head.

        Args:
            temperature: of the teacher's posteriors; "kmeans" has no use for it.

        Raises:
            ValueError: "em" of features of any length, whose posteriors are not those of unit vectors.
        """
        if self.kind == "kmeans":
            return PrototypeAccumulator(head.directions)
        if head.feature_norm == "none":
            raise ValueError("em needs features of one length: set feature_norm to l2 or std, or take kmeans")
        # "std" gives each row the length sqrt(D); the sums are over unit vectors.
        length = math.sqrt(head.feature_dim) if head.feature_norm == "std" else 1.0
        return PrototypeAccumulator(head.directions, temperature / length)


def shares_after(sums: PrototypeAccumulator, shares: Tensor) -> Tensor:
    """The prior (K,) of a pass, for the prototypes that the same pass gave.

    As in EM, where one step gives means and shares from the same responsibilities. A cluster that was split
    shares with the empty one what both had; left alone the empty one's prior near 0 would draw all targets.
    """
    shares = shares.clone()
    for pair in sums.splits():
        shares[list(pair)] = shares[list(pair)].mean()
    return shares


def figures_of(sums: PrototypeAccumulator) -> dict[str, float]:
    """What to log: the old prototypes' fit and how many were empty, the mean cosine of each new one with its
    old one, and of different new ones with each other: near 1 they have merged.
    """
    new, old = sums.refresh(), sums.prototypes.cpu()
    count = len(new)
    return {
        "prototype_fit": sums.fit(),
        "empty_prototypes": float(sums.empty().sum()),
        "prototype_cosine": float((new * old).sum(dim=1).mean()),
        "prototype_overlap": float((new.sum(dim=0).square().sum() - count) / (count * (count - 1))),
    }
