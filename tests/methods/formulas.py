"""HyDeS written out in float64 NumPy, sharing no code with viewmill.methods."""

import math

import numpy as np
import torch
from torch import Tensor


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


def imsvd_in_float64(
    z1: Tensor,
    z2: Tensor,
    units: int,
    *,
    weight: float = 1.0,
    similarity: str = "inner",
    entropy_weights: str = "per_block",
    temperature: float = 1.0,
    joint: str = "cross",
    terms: tuple[str, ...] = ("invariance", "diagonal", "offdiagonal"),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(loss, TI, w_DE DE, w_OE OE) of two views' logits (N, D), a block of the joint matrix at a time."""
    num_variables = z1.shape[1] // units
    a, b = (torch.exp(z / temperature).view(len(z), num_variables, units) for z in (z1.double(), z2.double()))
    a, b = (torch.clamp(x / x.sum(dim=2, keepdim=True), min=1e-8) for x in (a, b))
    if similarity == "inner":
        invariance = -torch.einsum("nmu,nmu->nm", a, b).log().mean()
    else:
        invariance = -torch.einsum("nmu,nmu->nm", a, b.log()).mean()
    pairs = [(a, b)] if joint == "cross" else [(a, a), (b, b)]
    diagonal, off = [], []
    for x, y in pairs:
        for m1 in range(num_variables):
            for m2 in range(num_variables):
                block = x[:, m1].T @ y[:, m2] / len(x)
                if m1 != m2:
                    off.append((block * block.log()).sum() / len(pairs))
                    continue
                p = block.diagonal() if joint == "cross" else x[:, m1].mean(dim=0)
                diagonal.append((p * p.log()).sum() / len(pairs))
    per_block = entropy_weights == "per_block"
    de = sum(diagonal) / (num_variables if per_block else num_variables**2)
    oe = sum(off) / (num_variables * (num_variables - 1) if per_block else num_variables**2)
    chosen = {"invariance": invariance, "diagonal": weight * de, "offdiagonal": weight * oe}
    return sum(chosen[term] for term in terms), invariance, de, oe
