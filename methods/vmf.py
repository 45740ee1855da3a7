"""HyDeS: mutual information between the views of an image, by kernel density on the sphere."""

# V views of an image, n images on this rank, W ranks, N = W n V vectors of the global batch, m = n V, D width

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import (
    begin_all_gather_rows,
    check_equal_shapes,
    mean_over_ranks,
    rank,
    world_size,
)
from viewmill.methods.kernel_sums import attraction, kernel_dtype, log_row_sums


class HydesLoss(NamedTuple):
    """0-dim tensors, nats; only `loss` carries gradient."""

    loss: Tensor
    h_global: Tensor
    h_local: Tensor
    mutual_information: Tensor


def log_vmf_constant(dim: int, kappa: float) -> float:
    """Logarithm of the von Mises-Fisher density's constant on the unit sphere of R^dim.

    log C_D(kappa) = (D/2-1) log kappa - (D/2) log 2 pi - log I_{D/2-1}(kappa)
    Source: HyDeS, equation 1. I, the modified Bessel function, underflows at D in the thousands; its power
    series I_v(k) = (k/2)^v / Gamma(v+1) sum_j (k^2/4)^j / (j! (v+1)...(v+j)) is taken in logarithms instead.
    Its terms are positive, so nothing cancels, and (k/2)^v meets the first term of log C_D.

    Args:
        dim: D >= 2.
        kappa: concentration, >= 0; at 0 this is minus the logarithm of the sphere's area.

    Raises:
        ValueError: dim or kappa is outside its range.
    """
    if dim < 2 or not (kappa >= 0 and math.isfinite(kappa)):
        raise ValueError(f"expected dim >= 2 and a finite kappa >= 0, got dim {dim} and kappa {kappa}")
    order = dim / 2 - 1
    constant = order * math.log(2) + math.lgamma(dim / 2) - (dim / 2) * math.log(2 * math.pi)
    return constant - _log_series(order, kappa)


def _log_series(order: float, kappa: float) -> float:
    """log sum_j (kappa^2/4)^j / (j! (order+1)...(order+j)), with the sum kept in range by a scale."""
    quarter, term, total, log_scale = kappa * kappa / 4, 1.0, 1.0, 0.0
    j = 0
    while term > 1e-17 * total or quarter > (j + 1) * (order + j + 1):
        j += 1
        term *= quarter / (j * (order + j))
        total += term
        if total > 1e250:
            term, total, log_scale = term * 1e-250, total * 1e-250, log_scale + 250 * math.log(10)
    return log_scale + math.log(total)


def hydes_loss(
    z: Tensor,
    *,
    kappa: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
    group: ProcessGroup | None = None,
) -> HydesLoss:
    """Minus the mutual information between views, over the vectors of all ranks.

    H_global = - mean_i log( 1/(N-1)   sum_{j != i}   C_D(kappa) exp(kappa z_i . z_j) )
    H_local  = - mean_i log( 1/|P(i)| sum_{j in P(i)} C_D(kappa) exp(kappa z_i . z_j) )
    loss = -(alpha H_global - beta H_local), P(i) being the other views of i's image
    Source: HyDeS, equations 1 to 4; z is divided by its length first (by 1e-12 where it is shorter, so that a
    zero vector stays one, orthogonal to all). An embedding that is not finite makes the loss NaN on every
    rank alike, for the engine to skip the step.

    Memory is O(nVD + ND + two tiles). The forward gathers z and the rows' log sums, m (D s + 4) (W - 1) bytes
    from this rank to the others where z goes in numbers of s bytes (`kernel_dtype`; in float64 the 4 is 8),
    and takes the mean of the local term; a rank's kernel among its own vectors is summed while z travels, the
    local term while the log sums do. The backward communicates nothing. Autocast does not reach inside.

    Args:
        z: (V, n, D) embeddings, unnormalised; V, n and D equal on all ranks. Half types go up to float32.
        kappa: kernel concentration, > 0.
        alpha, beta: weights of the global and the local entropy.
        group: ranks whose images are pooled; None is every rank.

    Returns:
        HydesLoss, equal on every rank. The mean over ranks of the gradients that backward leaves is
        the gradient of the global batch.

    Raises:
        ValueError: on all ranks: shapes differ between ranks, z is not (V >= 2, n >= 1, D >= 2), or kappa is
            not positive and finite.
    """
    if not (kappa > 0 and math.isfinite(kappa)):
        raise ValueError(f"kappa must be positive and finite, got {kappa}")
    check_equal_shapes(z.shape, z.device, group)
    if z.ndim != 3 or z.shape[0] < 2 or z.shape[1] < 1 or z.shape[2] < 2:
        raise ValueError(f"z must be (V >= 2 views, n >= 1 images, D >= 2), got {tuple(z.shape)}")
    with torch.autocast(z.device.type, enabled=False):
        loss, h_global, h_local = _Hydes.apply(z, kappa, alpha, beta, group)
    return HydesLoss(loss, h_global, h_local, -loss.detach())


class _Hydes(torch.autograd.Function):
    """Both terms in one function, so that the backward works in the memory of the gradient itself."""

    @staticmethod
    def forward(
        ctx: Any, z_VnD: Tensor, kappa: float, alpha: float, beta: float, group: ProcessGroup | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        views, images, dim = z_VnD.shape
        # Half types go up, float64 stays: bfloat16 keeps 8 bits, too few to sum a batch of exponentials.
        dtype = torch.promote_types(z_VnD.dtype, torch.float32)
        lengths_m = z_VnD.to(dtype).reshape(-1, dim).norm(dim=1).clamp_(min=1e-12)
        unit_mD = z_VnD.to(dtype).reshape(-1, dim) / lengths_m[:, None]
        # While the vectors of other ranks travel, a rank sums the kernel among its own.
        vectors = begin_all_gather_rows(unit_mD.to(kernel_dtype(z_VnD.device, z_VnD.dtype)), group)
        first = rank(group) * views * images
        own = slice(first, first + views * images)
        log_sums_m = log_row_sums(vectors.tensor, own, kappa, vectors.arrived)
        log_sums = begin_all_gather_rows(log_sums_m, group)
        local_nVV = _positive_similarities(unit_mD.view(views, images, dim), kappa)
        h_local = math.log(views - 1) - mean_over_ranks(local_nVV.logsumexp(dim=2).mean(), group)
        log_constant = log_vmf_constant(dim, kappa)
        all_ND, log_sums_N = vectors.arrived(), log_sums.arrived()
        # Without the constant: it has hundreds of nats, of which the loss keeps only (alpha - beta) times.
        h_global = math.log(len(all_ND) - 1) - log_sums_N.mean()
        loss = beta * h_local - alpha * h_global + (alpha - beta) * log_constant
        ctx.save_for_backward(unit_mD, lengths_m, all_ND, log_sums_N)
        ctx.settings = (kappa, alpha, beta, own, world_size(group), z_VnD.dtype, z_VnD.shape)
        h_global, h_local = h_global - log_constant, h_local - log_constant
        ctx.mark_non_differentiable(h_global, h_local)
        return loss, h_global, h_local

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None, None, None, None]:
        unit_mD, lengths_m, all_ND, log_sums_N = ctx.saved_tensors
        kappa, alpha, beta, own, ranks, dtype, shape = ctx.settings
        with torch.autocast(unit_mD.device.type, enabled=False):
            pull_mD = attraction(all_ND, log_sums_N, own, kappa).mul_(alpha)
            pull_mD.view(shape).sub_(_local_attraction(unit_mD.view(shape), kappa), alpha=beta)
        # W times this rank's part of the global gradient: the engine takes the mean over ranks.
        pull_mD.mul_(grad * (ranks * kappa / len(all_ND)))
        # Through z / |z|: what pulls along z changes nothing.
        along_m = (pull_mD * unit_mD).sum(dim=1)
        pull_mD.addcmul_(unit_mD, along_m[:, None], value=-1).div_(lengths_m[:, None])
        return pull_mD.view(shape).to(dtype), None, None, None, None


def _positive_similarities(unit_VnD: Tensor, kappa: float) -> Tensor:
    """kappa z_i . z_j among the views of an image, -inf with itself: (n, V, V)."""
    unit_nVD = unit_VnD.transpose(0, 1)
    s_nVV = (unit_nVD @ unit_nVD.mT).mul_(kappa)
    itself = torch.eye(len(unit_VnD), dtype=torch.bool, device=unit_VnD.device)
    return s_nVV.masked_fill_(itself, -torch.inf)


def _local_attraction(unit_VnD: Tensor, kappa: float) -> Tensor:
    """sum_{j in P(i)} (q_ij + q_ji) z_j, q_i the softmax of kappa z_i . z_j over P(i): (V, n, D)."""
    q_nVV = F.softmax(_positive_similarities(unit_VnD, kappa), dim=2)
    return ((q_nVV + q_nVV.mT) @ unit_VnD.transpose(0, 1)).transpose(0, 1)
