"""Which classes lie near each other in a representation, in an order that puts kindred ones side by side."""

# N images, F features, C classes, c of them with images

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from viewmill.engine.evaluation.semantics.semantics import (
    centroid_distances,
    class_centroids,
    cluster_order,
)


@dataclass(frozen=True)
class ClassSimilarity:
    """Cosines of class centroids, rows and columns in one order."""

    cosine: np.ndarray  # (c, c)
    classes: np.ndarray  # (c,) numbers of the classes, in that order


def class_similarity(
    features: Tensor, labels: Tensor, num_classes: int, meaning: np.ndarray | None = None
) -> ClassSimilarity:
    """Cosine of every two class centroids (mean direction of a class), classes without images left out.

    Source: HyDeS, figure 5.

    Args:
        features: (N, F); labels: (N,) int64; an image of label -1 belongs to no class and is left out.
        meaning: (C, C) distances of the classes' meanings; the order is that of their clusters. None: of the
            clusters of the centroids themselves.

    Raises:
        ValueError: fewer than two classes have images, features not finite, or see `class_centroids`.
    """
    labelled = labels >= 0
    if len(labels[labelled].unique()) < 2:
        raise ValueError("centroids: two classes with images are needed; convert from one folder a class")
    present, centroids = class_centroids(features[labelled], labels[labelled], num_classes)
    distance = centroid_distances(centroids)
    by = distance if meaning is None else meaning[np.ix_(present, present)]
    order = cluster_order(by)
    return ClassSimilarity(1 - distance[np.ix_(order, order)], present[order])
