"""Row sums of the kernel exp(kappa z_i . z_j) over the global batch, and their gradient, tile by tile.

No rank ever holds more than one tile of the N x N kernel. The kernel is symmetric, so among a rank's own rows
a tile serves its rows and its columns: half the tiles suffice there.
"""

# m rows of this rank, N rows of all ranks, D width, T rows of a tile

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

TILE = 1024
# exp(kappa (s - 1)) with |s| <= 1 stays a normal float32 number up to here; above, sums run in log space.
MAX_DIRECT_KAPPA = 40.0


def log_row_sums(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float, tile: int = TILE) -> Tensor:
    """log sum_{j != i} exp(kappa z_i . z_j) of this rank's rows.

    Args:
        z_mD: this rank's unit vectors, rows first .. first + m of all_ND.
        all_ND: the unit vectors of all ranks.
        kappa: concentration, > 0.

    Returns:
        (m,) of z's dtype.
    """
    if kappa <= MAX_DIRECT_KAPPA:
        return kappa + _sum_directly(z_mD, all_ND, first, kappa, tile).log_()
    return _sum_in_logs(z_mD, all_ND, first, kappa, tile)


def attraction(
    z_mD: Tensor, all_ND: Tensor, log_sums_N: Tensor, first: int, kappa: float, tile: int = TILE
) -> Tensor:
    """sum_{j != i} (p_ij + p_ji) z_j of this rank's rows, p_ij = exp(kappa z_i . z_j - log_sums_i).

    This is 1/kappa times the gradient of sum_i log_sums_i. It needs the log sums of all ranks and nothing
    else of them: what row j of another rank contributes is known here, because the kernel is symmetric.

    Returns:
        (m, D) of z's dtype.
    """
    weigh = _weigh_directly if kappa <= MAX_DIRECT_KAPPA else _weigh_in_logs
    pull_mD = torch.zeros_like(z_mD)
    for rows, columns, mirrored in _tiles(len(z_mD), len(all_ND), first, tile):
        s_TT = z_mD[rows] @ all_ND[columns].T
        own_rows = _shift(rows, first)
        p_TT = weigh(s_TT, log_sums_N[own_rows], log_sums_N[columns], kappa)
        _zero_the_diagonal(p_TT, own_rows, columns)
        pull_mD[rows].addmm_(p_TT, all_ND[columns])
        if mirrored:
            pull_mD[_shift(columns, -first)].addmm_(p_TT.T, z_mD[rows])
    return pull_mD


def _sum_directly(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float, tile: int) -> Tensor:
    """sum_{j != i} exp(kappa (z_i . z_j - 1)): unit vectors bound the exponent, so no maximum is sought."""
    sums_m = z_mD.new_zeros(len(z_mD))

    def add(s_TT: Tensor, rows: slice, columns: slice, mirrored: bool) -> None:
        k_TT = s_TT.sub_(1).mul_(kappa).exp_()
        _zero_the_diagonal(k_TT, _shift(rows, first), columns)
        sums_m[rows] += k_TT.sum(dim=1)
        if mirrored:
            sums_m[_shift(columns, -first)] += k_TT.sum(dim=0)

    _for_each_tile(z_mD, all_ND, first, tile, add)
    return sums_m


def _sum_in_logs(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float, tile: int) -> Tensor:
    logs_m = z_mD.new_full((len(z_mD),), -torch.inf)

    def add(s_TT: Tensor, rows: slice, columns: slice, mirrored: bool) -> None:
        s_TT.mul_(kappa)
        _zero_the_diagonal(s_TT, _shift(rows, first), columns, value=-torch.inf)
        logs_m[rows] = torch.logaddexp(logs_m[rows], s_TT.logsumexp(dim=1))
        if mirrored:
            place = _shift(columns, -first)
            logs_m[place] = torch.logaddexp(logs_m[place], s_TT.logsumexp(dim=0))

    _for_each_tile(z_mD, all_ND, first, tile, add)
    return logs_m


def _for_each_tile(
    z_mD: Tensor, all_ND: Tensor, first: int, tile: int, add: Callable[[Tensor, slice, slice, bool], None]
) -> None:
    for rows, columns, mirrored in _tiles(len(z_mD), len(all_ND), first, tile):
        add(z_mD[rows] @ all_ND[columns].T, rows, columns, mirrored)


def _weigh_directly(s_TT: Tensor, log_rows_T: Tensor, log_columns_T: Tensor, kappa: float) -> Tensor:
    k_TT = s_TT.sub_(1).mul_(kappa).exp_()
    per_row, per_column = (kappa - log_rows_T).exp(), (kappa - log_columns_T).exp()
    return k_TT.mul_(per_row[:, None] + per_column[None, :])


def _weigh_in_logs(s_TT: Tensor, log_rows_T: Tensor, log_columns_T: Tensor, kappa: float) -> Tensor:
    s_TT.mul_(kappa)
    by_row = (s_TT - log_rows_T[:, None]).exp_()
    return by_row.add_(s_TT.sub_(log_columns_T[None, :]).exp_())


def _tiles(m: int, total: int, first: int, tile: int) -> Iterator[tuple[slice, slice, bool]]:
    """(own rows, columns of all, whether the columns' own rows are served too) of tiles that cover m x N.

    Among the own rows only tiles on and above the diagonal are given; those above it are mirrored.
    """
    for top in range(0, m, tile):
        rows = slice(top, min(top + tile, m))
        for left in range(top, m, tile):
            columns = slice(first + left, first + min(left + tile, m))
            yield rows, columns, left != top
        for begin, end in ((0, first), (first + m, total)):
            for left in range(begin, end, tile):
                yield rows, slice(left, min(left + tile, end)), False


def _zero_the_diagonal(x_TT: Tensor, rows: slice, columns: slice, value: float = 0.0) -> None:
    """An image is no neighbour of itself; tiles hold the diagonal wholly or not at all."""
    if rows == columns:
        x_TT.fill_diagonal_(value)


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
