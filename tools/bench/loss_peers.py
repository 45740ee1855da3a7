"""The plain formulas that our losses are measured beside."""

import math

import torch
from torch import Tensor


def whole_kernel_hydes(z: Tensor, kappa: float, alpha: float, beta: float) -> Tensor:
    """HyDeS with the whole N x N kernel in memory, for autograd to differentiate.

    Args:
        z: (V, n, D) embeddings of V views of n images; no vector is zero.
        kappa: concentration of the kernel.
        alpha: weight of the global entropy.
        beta: weight of the local entropy.

    Returns:
        The loss, nats, without the constant of the density.
    """
    views, images, dim = z.shape
    unit = z / z.norm(dim=2, keepdim=True)
    flat = unit.reshape(-1, dim)
    image = torch.arange(images, device=z.device).repeat(views)
    logits = kappa * flat @ flat.T
    itself = torch.eye(len(flat), dtype=torch.bool, device=z.device)
    others = ~itself & (image[:, None] == image[None, :])
    h_global = math.log(len(flat) - 1) - logits.masked_fill(itself, -torch.inf).logsumexp(1).mean()
    h_local = math.log(views - 1) - logits.masked_fill(~others, -torch.inf).logsumexp(1).mean()
    return beta * h_local - alpha * h_global


def whole_matrix_imsvd(z1: Tensor, z2: Tensor, units: int) -> Tensor:
    """IMSVD at its defaults with the whole D x D joint matrix in memory, for autograd to differentiate.

    Args:
        z1, z2: (N, D) logits of two views, D a multiple of `units`.
        units: values of a variable.
    """
    count, dim = z1.shape
    variables = dim // units
    q1, q2 = (z.view(count, variables, units).softmax(dim=2).clamp(min=1e-8) for z in (z1, z2))
    invariance = -(q1 * q2).sum(dim=2).log().mean()
    joint = q1.view(count, dim).T @ q2.view(count, dim) / count
    entropies = joint * joint.log()
    within = entropies.view(variables, units, variables, units).diagonal(dim1=0, dim2=2).sum()
    off = (entropies.sum() - within) / (variables * (variables - 1))
    return invariance + entropies.diagonal().sum() / variables + off
