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


def targets_in_float64(
    logits: np.ndarray,
    temperature: float,
    normalization: str,
    *,
    log_prior: np.ndarray | None = None,
    center: np.ndarray | None = None,
    prior_iterations: int = 1,
) -> np.ndarray:
    """Teacher targets (N, K) of a whole batch, in probabilities instead of logarithms."""

    def rows(x: np.ndarray) -> np.ndarray:
        return x / x.sum(axis=1, keepdims=True)

    count, clusters = logits.shape
    if normalization == "center":
        logits = logits - (logits.mean(axis=0) if center is None else center)
    weights = np.exp(logits / temperature)
    t = rows(weights)
    if normalization in ("none", "center"):
        return t
    if normalization == "sinkhorn":
        for _ in range(3):
            weights = rows(weights / weights.sum(axis=0))
        return weights
    prior = np.maximum(t.mean(axis=0), 1 / (count * clusters)) if log_prior is None else np.exp(log_prior)
    for _ in range(prior_iterations - 1):
        prior = np.sqrt(prior * np.maximum(rows(t / prior).mean(axis=0), 1 / (count * clusters)))
        prior = prior / prior.sum()
    return rows(t / prior)


def distillation_in_float64(
    student: np.ndarray, targets: np.ndarray, temperature: float, kind: str
) -> tuple[float, np.ndarray]:
    """(loss, its gradient by the student's logits (Vs, N, K)), pair by pair of views."""
    total, gradient, pairs = 0.0, np.zeros_like(student), 0
    for v in range(len(student)):
        for u in range(len(targets)):
            if u == v:
                continue
            pairs += 1
            for i in range(student.shape[1]):
                q, p = targets[u, i], np.exp(student[v, i] / temperature)
                p = p / p.sum()
                total -= float((q * np.log(p)).sum())
                if kind == "kl":
                    total += sum(float(x) * math.log(x) for x in q if x > 0)
                gradient[v, i] += (p * q.sum() - q) / temperature
    scale = pairs * student.shape[1]
    return total / scale, gradient / scale


def supervised_in_float64(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """(loss, its gradient by the logits (V, N, K)), view by view and image by image."""
    total, gradient = 0.0, np.zeros_like(logits)
    views, images, _ = logits.shape
    for v in range(views):
        for i in range(images):
            p = np.exp(logits[v, i])
            p = p / p.sum()
            total -= math.log(p[labels[i]])
            gradient[v, i] = p
            gradient[v, i, labels[i]] -= 1
    return total / (views * images), gradient / (views * images)
