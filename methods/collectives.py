"""Sums and gathers over ranks, and the gradient convention that every method keeps.

The convention: a loss is the loss of the global batch and equal on all W ranks; the gradient that `backward`
leaves on a rank's own tensors is W times that rank's part of the global gradient. The mean over ranks, which
data-parallel training takes, is then the gradient of the global batch. Without a process group these are
no-ops.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup


class Travelling(NamedTuple):
    """What a collective fills while this rank computes something else; every rank begins its own in turn."""

    tensor: Tensor  # nobody's to read or write before `arrived`
    work: "dist.Work | None" = None
    sent: Tensor | None = None  # kept until then

    def arrived(self) -> Tensor:
        """Waits for the other ranks' part; on a GPU what is queued from here on does."""
        if self.work is not None:
            self.work.wait()
        return self.tensor


def world_size(group: ProcessGroup | None = None) -> int:
    """Ranks of the group; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: ProcessGroup | None = None) -> int:
    """This process among the ranks of the group; 0 without torch.distributed."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def all_gather_rows(rows: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """The rows of every rank, in rank order: (n, ...) -> (W n, ...). Carries no gradient.

    n must be equal on all ranks (see `check_equal_shapes`).
    """
    return begin_all_gather_rows(rows, group).arrived()


def begin_all_gather_rows(rows: Tensor, group: ProcessGroup | None = None) -> Travelling:
    """`all_gather_rows`, whose result this rank's own rows may be read in before the others' are there."""
    ranks, count = world_size(group), len(rows)
    if ranks == 1:
        return Travelling(rows.detach())
    gathered = rows.new_empty((ranks * count, *rows.shape[1:]))
    own = gathered[rank(group) * count : (rank(group) + 1) * count].copy_(rows.detach())
    # What is sent lies where it belongs already, so no backend writes there.
    work = dist.all_gather_into_tensor(gathered, own, group=group, async_op=True)
    return Travelling(gathered, work, own)


def sum_over_ranks(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Sum of x over ranks, equal on all; the backward sums the ranks' gradients likewise."""
    return x if world_size(group) == 1 else _SumOverRanks.apply(x, group)


def mean_over_ranks(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Mean of x over ranks, equal on all.

    What is computed from it must be the same on every rank, as a loss is. Its backward passes the gradient on
    unchanged and communicates nothing: W times a rank's part, which is 1/W, is 1.
    """
    return x if world_size(group) == 1 else _MeanOverRanks.apply(x, group)


def all_sum(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Sum of x over ranks, in its place. Carries no gradient."""
    if world_size(group) > 1:
        dist.all_reduce(x, group=group)
    return x


def owned_columns(dim: int, group: ProcessGroup | None = None) -> range:
    """The share of `dim` columns that this rank owns: contiguous, sizes differ by one at most."""
    return _share(dim, rank(group), world_size(group))


def begin_columns_to_owners(rows_nD: Tensor, group: ProcessGroup | None = None) -> Travelling:
    """(n, D) on every rank -> (W n, C): all ranks' rows, in rank order, in the columns that this rank owns.

    n must be equal on all ranks. Carries no gradient.
    """
    ranks = world_size(group)
    if ranks == 1:
        return Travelling(rows_nD)
    count, dim = rows_nD.shape
    shares = [_share(dim, other, ranks) for other in range(ranks)]
    sent = torch.cat([rows_nD[:, share.start : share.stop].reshape(-1) for share in shares])
    own = len(owned_columns(dim, group))
    received = sent.new_empty((ranks * count, own))
    sizes = [count * len(share) for share in shares]
    work = dist.all_to_all_single(
        received.view(-1), sent, [count * own] * ranks, sizes, group=group, async_op=True
    )
    return Travelling(received, work, sent)


def begin_columns_to_rows(owned_NC: Tensor, dim: int, group: ProcessGroup | None = None) -> Travelling:
    """The way back of `begin_columns_to_owners`; `rows_of_columns` puts together what has arrived."""
    ranks = world_size(group)
    if ranks == 1:
        return Travelling(owned_NC)
    count = len(owned_NC) // ranks
    received, sent = owned_NC.new_empty(count * dim), owned_NC.reshape(-1)
    received_sizes = [count * len(_share(dim, other, ranks)) for other in range(ranks)]
    sent_sizes = [owned_NC.numel() // ranks] * ranks
    work = dist.all_to_all_single(received, sent, received_sizes, sent_sizes, group=group, async_op=True)
    return Travelling(received, work, sent)


def rows_of_columns(travelling: Travelling, dim: int, group: ProcessGroup | None = None) -> Tensor:
    """(n, D), once all owners have sent their columns of this rank's rows."""
    ranks, received = world_size(group), travelling.arrived()
    if ranks == 1:
        return received
    count = received.numel() // dim
    parts = received.split([count * len(_share(dim, other, ranks)) for other in range(ranks)])
    return torch.cat([part.view(count, -1) for part in parts], dim=1)


def rows_to_owners(rows_ND: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """Sums (W n, D) over ranks and gives each rank its own n rows. Carries no gradient."""
    ranks = world_size(group)
    if ranks == 1:
        return rows_ND
    own_nD = rows_ND.new_empty((len(rows_ND) // ranks, *rows_ND.shape[1:]))
    dist.reduce_scatter_tensor(own_nD, rows_ND, group=group)
    return own_nD


def _share(total: int, part: int, parts: int) -> range:
    return range(total * part // parts, total * (part + 1) // parts)


def check_equal_shapes(shape: Sequence[int], device: torch.device, group: ProcessGroup | None = None) -> None:
    """Refuses, on all ranks alike, tensors whose shapes differ between ranks.

    A rank that raised alone would leave the others waiting in their next collective.

    Raises:
        ValueError: on every rank, with the extent that differs.
    """
    if world_size(group) == 1:
        return
    # Eight numbers whatever the shape: what the ranks send to each other must itself agree.
    padded = torch.tensor([len(shape), *shape, *[0] * 7][:8], dtype=torch.int64, device=device)
    extremes = torch.cat([padded, -padded])
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    largest, smallest = extremes[:8].tolist(), (-extremes[8:]).tolist()
    for place, (high, low) in enumerate(zip(largest, smallest, strict=True)):
        if high != low:
            what = "number of dimensions" if place == 0 else f"size of dimension {place - 1}"
            raise ValueError(
                f"{what} differs between ranks ({low} to {high}; {tuple(shape)} on rank {rank(group)}): "
                "give every rank the same number of images"
            )


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> Tensor:
        ctx.group = group
        total = x.detach().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup | None) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total, group=group)
        return total / world_size(group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
