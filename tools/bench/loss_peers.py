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
    image = torch.arange(images).repeat(views)
    logits = kappa * flat @ flat.T
    itself = torch.eye(len(flat), dtype=torch.bool)
    others = ~itself & (image[:, None] == image[None, :])
    h_global = math.log(len(flat) - 1) - logits.masked_fill(itself, -torch.inf).logsumexp(1).mean()
    h_local = math.log(views - 1) - logits.masked_fill(~others, -torch.inf).logsumexp(1).mean()
    return beta * h_local - alpha * h_global
