"""IMSVD: information-maximised soft variable discretisation, by the cross-joint entropy of two views."""

# n images on this rank, W ranks, N = W n, D = M variables x U units

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import check_equal_shapes, mean_over_ranks
from viewmill.methods.joint_entropy import Exchange, JointEntropy, cross_joint_entropy, self_joint_entropy

SMALLEST = 1e-8  # what probabilities are clamped to, before any logarithm
SIMILARITIES = ("inner", "cross_entropy")
ENTROPY_WEIGHTS = ("per_block", "equation")
JOINTS = ("cross", "self")
TERMS = ("invariance", "diagonal", "offdiagonal")


class ImsvdLoss(NamedTuple):
    """0-dim tensors, nats, equal on all ranks; only `loss` carries gradient.

    loss = invariance + weight (diagonal_entropy + offdiagonal_entropy), without the terms switched off.
    """

    loss: Tensor
    invariance: Tensor
    diagonal_entropy: Tensor
    offdiagonal_entropy: Tensor


def soft_variables(z_nD: Tensor, units: int, temperature: float = 1.0) -> Tensor:
    """Probabilities of every variable's values: softmax over each `units` numbers, >= 1e-8; (n, D).

    Source: IMSVD, equation 1. Half types go up to float32.
    """
    return _SoftVariables.apply(z_nD, units, temperature)


class _SoftVariables(torch.autograd.Function):
    """Keeps the logits, which are there anyway, and takes their softmax again in the backward.

    Autograd would keep the probabilities before the clamp for each view: N D numbers that the loss has no
    other use for. One more softmax costs a thousandth of the joint matrix.
    """

    @staticmethod
    def forward(ctx: Any, z_nD: Tensor, units: int, temperature: float) -> Tensor:
        ctx.save_for_backward(z_nD)
        ctx.settings = (units, temperature)
        return _softmax(z_nD, units, temperature).clamp_(min=SMALLEST).view_as(z_nD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_nD: Tensor) -> tuple[Tensor, None, None]:
        (z_nD,) = ctx.saved_tensors
        units, temperature = ctx.settings
        q_nMU = _softmax(z_nD, units, temperature)
        # What was clamped does not move; its softmax still pushes the other units of its variable.
        pull_nMU = (grad_nD.view_as(q_nMU) * q_nMU).masked_fill_(q_nMU < SMALLEST, 0)
        pull_nMU.addcmul_(q_nMU, pull_nMU.sum(dim=2, keepdim=True), value=-1).div_(temperature)
        return pull_nMU.view_as(z_nD).to(z_nD.dtype), None, None


def _softmax(z_nD: Tensor, units: int, temperature: float) -> Tensor:
    """Over the units of each variable, (n, M, U), in float32 at least."""
    scaled_nD = z_nD.to(torch.promote_types(z_nD.dtype, torch.float32)) / temperature
    return scaled_nD.view(len(z_nD), -1, units).softmax(dim=2)


def imsvd_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    units: int = 80,
    weight: float = 1.0,
    similarity: str = "inner",
    entropy_weights: str = "per_block",
    temperature: float = 1.0,
    joint: str = "cross",
    terms: Collection[str] = TERMS,
    group: ProcessGroup | None = None,
) -> ImsvdLoss:
    """Transform invariance plus the negative joint entropies of soft variables, over the images of all ranks.

    q = soft_variables(z), P(m1,m2;d1,d2) = 1/N sum_i q'_i(m1,d1) q''_i(m2,d2)
    TI = - 1/(N M) sum_{i,m} log < q'_i(m,.), q''_i(m,.) >
    DE = sum over m, d of P(m,m;d,d) log P(m,m;d,d)
    OE = sum over m1 != m2, d1, d2 of P log P
    loss = TI + weight (w_DE DE + w_OE OE)
    Source: IMSVD, equations 1, 10 and 11. With joint="self", equation 9 (r = 2): DE is the sum of p log p
    with p = 1/N sum_i q_i, OE that of each view's own joint matrix, and both are means over the two views.

    Args:
        z1, z2: (n, D) logits of two views, D = M units, M >= 2; n and D equal on all ranks.
        units: U, the values of a variable.
        weight: lambda, of both entropies.
        similarity: "inner", or "cross_entropy": TI = - 1/(N M) sum q' log q''.
        entropy_weights: "per_block": w_DE = 1/M, w_OE = 1/(M (M - 1)), a mean over blocks, as the paper's
            tables were made; "equation": both 1/M^2.
        temperature: of the softmax.
        joint: "cross", between the views, or "self", within each.
        terms: which of "invariance", "diagonal" (DE) and "offdiagonal" (OE) are in the loss; the others are
            told all the same.
        group: ranks whose images are pooled; None is every rank.

    Returns:
        ImsvdLoss. The mean over ranks of the gradients that backward leaves is the gradient of the
        global batch.

    Raises:
        ValueError: on all ranks: shapes differ between ranks or views, D is no multiple of units with
            M >= 2, or an option is unknown or out of range.
    """
    _check_options(similarity, entropy_weights, joint, terms, temperature)
    check_equal_shapes((*z1.shape, *z2.shape), z1.device, group)
    num_variables = _num_variables(z1.shape, z2.shape, units)
    w_diagonal, w_off = _weights(num_variables, entropy_weights)
    chosen = {
        "diagonal_weight": weight * w_diagonal * ("diagonal" in terms),
        "offdiagonal_weight": weight * w_off * ("offdiagonal" in terms),
    }
    with torch.autocast(z1.device.type, enabled=False):
        exchange = Exchange(group) if joint == "cross" else None
        q1 = soft_variables(z1, units, temperature)
        if exchange:  # q1 travels while q2 is made, both while the invariance is
            exchange.rows(q1)
        q2 = soft_variables(z2, units, temperature)
        if exchange:
            exchange.columns(q2)
        invariance = mean_over_ranks(_dissimilarity(q1, q2, units, similarity), group)
        if exchange:
            entropy = cross_joint_entropy(q1, q2, units=units, group=group, exchange=exchange, **chosen)
        else:
            entropy = _within_views(q1, q2, units, group, **chosen)
    loss = entropy.total + invariance if "invariance" in terms else entropy.total
    return ImsvdLoss(loss, invariance.detach(), w_diagonal * entropy.diagonal, w_off * entropy.offdiagonal)


def _dissimilarity(q1: Tensor, q2: Tensor, units: int, similarity: str) -> Tensor:
    """Minus the similarity of two views, mean over this rank's images and the variables."""
    q1, q2 = (q.view(len(q), -1, units) for q in (q1, q2))
    if similarity == "inner":
        return -(q1 * q2).sum(dim=2).log().mean()
    return -(q1 * q2.log()).sum(dim=2).mean()


def _within_views(
    q1: Tensor,
    q2: Tensor,
    units: int,
    group: ProcessGroup | None,
    *,
    diagonal_weight: float,
    offdiagonal_weight: float,
) -> JointEntropy:
    """Equation 9: entropies of each variable and of each pair of variables of one view, mean over the two."""
    joints = [self_joint_entropy(q, units=units, weight=offdiagonal_weight, group=group) for q in (q1, q2)]
    marginals = [mean_over_ranks(q.mean(dim=0), group) for q in (q1, q2)]
    diagonal = torch.stack([(p * p.log()).sum() for p in marginals]).mean()
    total = (joints[0].total + joints[1].total) / 2 + diagonal_weight * diagonal
    return JointEntropy(total, diagonal.detach(), (joints[0].offdiagonal + joints[1].offdiagonal) / 2)


def _weights(num_variables: int, entropy_weights: str) -> tuple[float, float]:
    """w_DE and w_OE."""
    if entropy_weights == "equation":
        return 1 / num_variables**2, 1 / num_variables**2
    return 1 / num_variables, 1 / (num_variables * (num_variables - 1))


def _num_variables(shape1: torch.Size, shape2: torch.Size, units: int) -> int:
    if shape1 != shape2 or len(shape1) != 2 or not shape1[0]:
        raise ValueError(
            f"z1 and z2 must both be (n >= 1 images, D), got {tuple(shape1)} and {tuple(shape2)}"
        )
    num_variables, rest = divmod(shape1[1], units) if units > 1 else (0, 0)
    if rest or num_variables < 2:
        raise ValueError(f"{shape1[1]} logits are no 2 or more variables of {units} >= 2 units each")
    return num_variables


def _check_options(
    similarity: str, entropy_weights: str, joint: str, terms: Collection[str], temperature: float
) -> None:
    for name, value, known in (
        ("similarity", similarity, SIMILARITIES),
        ("entropy_weights", entropy_weights, ENTROPY_WEIGHTS),
        ("joint", joint, JOINTS),
        *(("terms", term, TERMS) for term in terms),
    ):
        if value not in known:
            raise ValueError(f"{name}: '{value}' is not one of {', '.join(known)}")
    if not terms or not temperature > 0:
        raise ValueError(f"need a term and a temperature > 0, got {list(terms)} and {temperature}")
