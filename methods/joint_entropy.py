"""Entropies of the joint probability matrix of soft variables, its columns shared out among the ranks.

The D x D matrix P = A^T B / N of the global batch is never held: a rank has all rows of A and the columns of
B that it owns, and walks over its share of P block by block. Multiplications per rank fall as 1/W.
"""

# n images on this rank, W ranks, N = W n, D = M variables x U units, C columns of this rank, K of a block

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import (
    Travelling,
    all_gather_rows,
    all_sum,
    begin_all_gather_rows,
    begin_columns_to_owners,
    begin_columns_to_rows,
    owned_columns,
    rows_of_columns,
    rows_to_owners,
    world_size,
)

# Numbers of P in memory at once, in each of two matrices: 32 MiB in float32. On the CPU the ranks of a
# machine share its memory, so there they share this too, down to columns that still make a fast product.
BLOCK_NUMBERS = 8 * 2**20
LEAST_COLUMNS = 64


class JointEntropy(NamedTuple):
    """0-dim tensors, equal on all ranks; only `total` carries gradient."""

    total: Tensor  # the weighted sum of the two
    diagonal: Tensor  # sum over m, d of P(m,m;d,d) log P(m,m;d,d)
    offdiagonal: Tensor  # sum over m1 != m2, d1, d2 of P log P


class Exchange:
    """What ranks need of each other's probabilities, sent as soon as a view's are there.

    In this order on every rank: `rows` of the first view, `columns` of the second.
    """

    def __init__(self, group: ProcessGroup | None = None) -> None:
        self._group = group
        self.a_ND: Travelling | None = None
        self.b_NC: Travelling | None = None

    def rows(self, a_nD: Tensor) -> None:
        """All ranks' rows begin to come."""
        self.a_ND = begin_all_gather_rows(a_nD, self._group)

    def columns(self, b_nD: Tensor) -> None:
        """All ranks' rows of the owned columns begin to come."""
        self.b_NC = begin_columns_to_owners(b_nD.detach(), self._group)

    def arrived(self) -> tuple[Tensor, Tensor]:
        """(N, D) and (N, C)."""
        assert self.a_ND is not None
        assert self.b_NC is not None
        return self.a_ND.arrived(), self.b_NC.arrived()


def cross_joint_entropy(
    a_nD: Tensor,
    b_nD: Tensor,
    *,
    units: int,
    diagonal_weight: float,
    offdiagonal_weight: float,
    group: ProcessGroup | None = None,
    exchange: Exchange | None = None,
) -> JointEntropy:
    """Negative entropies of IMSVD's cross-joint matrix P = A^T B / N over the rows of all ranks.

    Source: IMSVD, equations 10 and 11. The gradient keeps the convention of `collectives`; it is computed in
    the forward, while a block of P is at hand, and the backward communicates nothing.

    Bytes that this rank sends, s being the size of a number (the sum of two numbers aside): all of A to the
    others, n D s (W - 1), and of B the columns that others own, n (D - C) s. With a gradient the parts of A's
    that others own, n D s (W - 1), and of B's in the owned columns the rows of others, n C s (W - 1).
    Multiplications: N D C, three times as many with a gradient; C = D / W, up to one column.
    Memory: A of all ranks and its gradient, N D numbers each, the owned columns of B and theirs, N C each,
    and two blocks of P.

    Args:
        a_nD, b_nD: probabilities of two views, > 0, float32 or float64, of equal shape on all ranks.
        units: U, the values of a variable; divides D.
        exchange: of these two, where it was begun before; on every rank or on none.
    """
    if exchange is None:
        exchange = Exchange(group)
        exchange.rows(a_nD)
        exchange.columns(b_nD)
    settings = _Settings(units, diagonal_weight, offdiagonal_weight, group)
    return JointEntropy(*_CrossJoint.apply(a_nD, b_nD, settings, exchange))


def self_joint_entropy(
    a_nD: Tensor, *, units: int, weight: float, group: ProcessGroup | None = None
) -> JointEntropy:
    """weight times the sum over m1 != m2, d1, d2 of P log P, P = A^T A / N over the rows of all ranks.

    Source: IMSVD, equations 3, 5 and 6 with r = 2. As `cross_joint_entropy`, but P is symmetric: the gradient
    needs the owned columns alone. `diagonal` has no weight and no gradient.
    """
    return JointEntropy(*_SelfJoint.apply(a_nD, _Settings(units, 0.0, weight, group)))


class _Settings(NamedTuple):
    units: int
    diagonal_weight: float
    offdiagonal_weight: float
    group: ProcessGroup | None


class _CrossJoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a_nD: Tensor, b_nD: Tensor, at: _Settings, exchange: Exchange
    ) -> tuple[Tensor, Tensor, Tensor]:
        all_ND, b_NC = exchange.arrived()
        if any(ctx.needs_input_grad[:2]):
            sums, grad_a, grad_b = _sums_and_gradients(all_ND, b_NC, at)
            ctx.save_for_backward(grad_a, grad_b)
        else:
            sums = all_ND.new_zeros(2)
            for columns, _, p_DK, log_DK in _blocks(all_ND, b_NC, at.group):
                sums += _add_up(p_DK, log_DK, columns, at.units)
        return _result(ctx, all_sum(sums, at.group), at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_a, grad_b = ctx.saved_tensors
        return grad * grad_a, grad * grad_b, None, None


def _sums_and_gradients(all_ND: Tensor, b_NC: Tensor, at: _Settings) -> tuple[Tensor, Tensor, Tensor]:
    """This rank's part of the sums (see `_add_up`), and the total's gradients by its rows, (n, D) each."""
    dim, owned = all_ND.shape[1], b_NC.shape[1]
    sums, grad_ND, grad_NC = all_ND.new_zeros(2), torch.zeros_like(all_ND), torch.empty_like(b_NC)
    on_its_way: Travelling | None = None
    for columns, own, p_DK, log_DK in _blocks(all_ND, b_NC, at.group):
        sums += _add_up(p_DK, log_DK, columns, at.units)
        pull_DK = _pull(log_DK, columns, at)
        torch.mm(all_ND, pull_DK, out=grad_NC[:, own])
        if own.stop == owned:  # it is whole, and travels during the last product
            on_its_way = begin_columns_to_rows(grad_NC, dim, at.group)
        grad_ND.addmm_(b_NC[:, own], pull_DK.T)
    if on_its_way is None:  # more ranks than columns: this one owns none
        on_its_way = begin_columns_to_rows(grad_NC, dim, at.group)
    grad_a = rows_to_owners(grad_ND, at.group)
    grad_b = rows_of_columns(on_its_way, dim, at.group)
    scale = world_size(at.group) / len(all_ND)  # W times this rank's part of the mean over N
    return sums, grad_a.mul_(scale), grad_b.mul_(scale)


class _SelfJoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_nD: Tensor, at: _Settings) -> tuple[Tensor, Tensor, Tensor]:
        all_ND = all_gather_rows(a_nD, at.group)
        own_columns = owned_columns(a_nD.shape[1], at.group)
        a_NC = all_ND[:, own_columns.start : own_columns.stop]
        grad_NC = torch.empty_like(a_NC) if ctx.needs_input_grad[0] else None
        sums = all_ND.new_zeros(2)
        for columns, own, p_DK, log_DK in _blocks(all_ND, a_NC, at.group):
            sums += _add_up(p_DK, log_DK, columns, at.units)
            if grad_NC is not None:
                torch.mm(all_ND, _pull(log_DK, columns, at), out=grad_NC[:, own])
        if grad_NC is not None:
            # Twice, as an entry of A stands in a row and in a column of P.
            scale = 2 * world_size(at.group) / len(all_ND)
            on_its_way = begin_columns_to_rows(grad_NC, a_nD.shape[1], at.group)
            ctx.save_for_backward(rows_of_columns(on_its_way, a_nD.shape[1], at.group).mul_(scale))
        return _result(ctx, all_sum(sums, at.group), at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        (grad_a,) = ctx.saved_tensors
        return grad * grad_a, None


def _result(ctx: Any, sums: Tensor, at: _Settings) -> tuple[Tensor, Tensor, Tensor]:
    diagonal, offdiagonal = sums[0].clone(), sums[1].clone()
    total = at.diagonal_weight * diagonal + at.offdiagonal_weight * offdiagonal
    ctx.mark_non_differentiable(diagonal, offdiagonal)
    return total, diagonal, offdiagonal


def _blocks(
    all_ND: Tensor, b_NC: Tensor, group: ProcessGroup | None
) -> Iterator[tuple[range, slice, Tensor, Tensor]]:
    """This rank's columns of P block by block: (columns of all D, the same among the owned, P, log P).

    The matrices are those of the block before, written again.
    """
    num_rows, dim = all_ND.shape
    first, owned = owned_columns(dim, group).start, b_NC.shape[1]
    width = block_columns(dim, owned, all_ND.device, world_size(group))
    p_memory, log_memory = (all_ND.new_empty(dim * width) for _ in range(2))
    for start in range(0, owned, width):
        own = slice(start, min(start + width, owned))
        size = own.stop - own.start
        p_DK, log_DK = (memory[: dim * size].view(dim, size) for memory in (p_memory, log_memory))
        torch.addmm(p_DK, all_ND.T, b_NC[:, own], beta=0, alpha=1 / num_rows, out=p_DK)
        torch.log(p_DK, out=log_DK)
        yield range(first + own.start, first + own.stop), own, p_DK, log_DK


def block_columns(dim: int, owned: int, device: torch.device, ranks: int) -> int:
    """Columns of P that a rank has in memory at once, K."""
    sharing = ranks if device.type == "cpu" else 1
    return min(owned, max(LEAST_COLUMNS, BLOCK_NUMBERS // (dim * sharing)))


def _add_up(p_DK: Tensor, log_DK: Tensor, columns: range, units: int) -> Tensor:
    """(diagonal, offdiagonal) of this block: (2,). P becomes P log P."""
    e_DK = p_DK.mul_(log_DK)
    diagonal = e_DK.diagonal(-columns.start).sum()
    off = e_DK.sum() - sum(e_DK[rows, own].sum() for rows, own in _own_variables(columns, units))
    return torch.stack([diagonal, off])


def _pull(log_DK: Tensor, columns: range, at: _Settings) -> Tensor:
    """Gradient of the weighted terms by P, in the place of log P."""
    on_diagonal = log_DK.diagonal(-columns.start).add(1).mul_(at.diagonal_weight)
    pull_DK = log_DK.add_(1).mul_(at.offdiagonal_weight)
    for rows, own in _own_variables(columns, at.units):
        pull_DK[rows, own] = 0
    pull_DK.diagonal(-columns.start).copy_(on_diagonal)
    return pull_DK


def _own_variables(columns: range, units: int) -> Iterator[tuple[slice, slice]]:
    """(rows, columns of the block) where both belong to one variable; a share may begin inside of one."""
    for first in range(columns.start // units * units, columns.stop, units):
        start, stop = max(first, columns.start), min(first + units, columns.stop)
        yield slice(first, first + units), slice(start - columns.start, stop - columns.start)
