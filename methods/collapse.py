"""How a collapse is seen: figures of a batch that cost next to nothing beside a step."""

# n images on this rank, W ranks, N = W n, D width

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import all_sum, world_size

# Rows that the effective rank is taken of: eigenvalues cost their third power.
RANK_ROWS = 128


@torch.no_grad()
def mean_cosine(z_nD: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Mean cosine of the embeddings of two different images of all ranks; 0-dim.

    (|sum_i u_i|^2 - N) / (N (N - 1)) with u = z/|z|, so no pair is visited. 0 of a single image.
    """
    unit_nD = F.normalize(z_nD.float(), dim=1)
    count = len(z_nD) * world_size(group)
    total_D = all_sum(unit_nD.sum(dim=0), group)
    return (total_D.square().sum() - count) / max(1, count * (count - 1))


@torch.no_grad()
def effective_rank(z_nD: Tensor) -> Tensor:
    """Dimensions that the embeddings of this rank's first images fill; 0-dim, from 1 to min(n - 1, D).

    exp of the entropy of the normalised eigenvalues of their covariance; 1 where they are all the same.
    Source: Roy and Vetterli (2007), The effective rank, on the covariance instead of the matrix itself.
    """
    # On the host: eigenvalues of so small a matrix are slow on a GPU.
    rows_nD = z_nD[:RANK_ROWS].float().cpu()
    centred_nD = rows_nD - rows_nD.mean(dim=0)
    if not bool(centred_nD.isfinite().all()):  # which a solver may refuse
        return rows_nD.new_tensor(torch.nan)
    gram = centred_nD @ centred_nD.T if len(rows_nD) <= rows_nD.shape[1] else centred_nD.T @ centred_nD
    eigenvalues = torch.linalg.eigvalsh(gram.double()).clamp(min=0)
    shares = eigenvalues / eigenvalues.sum().clamp(min=1e-30)
    return entropy(shares).exp().float()


def entropy(p: Tensor) -> Tensor:
    """- sum p log p over the last dimension, nats; 0 log 0 = 0."""
    return -torch.xlogy(p, p).sum(dim=-1)


@torch.no_grad()
def mean_over_all(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Mean over ranks of a figure, without gradient."""
    return all_sum(x.detach().clone(), group) / world_size(group)
