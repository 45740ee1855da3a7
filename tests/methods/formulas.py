"""HyDeS written out in float64 NumPy, sharing no code with viewmill.methods."""

import math

import numpy as np


def hydes_in_float64(z: np.ndarray, kappa: float, alpha: float, beta: float) -> tuple[float, float, float]:
    """(loss, H_global, H_local) of embeddings (V, n, D), without the constant of the density."""
    views, images, _ = z.shape
    vectors = [
        (image, z[view, image] / np.sqrt((z[view, image] ** 2).sum()))
        for view in range(views)
        for image in range(images)
    ]
    total = len(vectors)
    h_global = h_local = 0.0
    for i, (image_i, z_i) in enumerate(vectors):
        everyone = [math.exp(kappa * float(z_i @ z_j)) for j, (_, z_j) in enumerate(vectors) if j != i]
        positives = [
            math.exp(kappa * float(z_i @ z_j))
            for j, (image_j, z_j) in enumerate(vectors)
            if j != i and image_j == image_i
        ]
        h_global -= math.log(sum(everyone) / (total - 1)) / total
        h_local -= math.log(sum(positives) / len(positives)) / total
    return -(alpha * h_global - beta * h_local), h_global, h_local
