"""Row sums of the kernel exp(kappa z_i . z_j) over the global batch, and their gradient, tile by tile.

No rank ever holds more than two tiles of the N x N kernel, and these are reused. The kernel is symmetric, so
among a rank's own rows a tile serves its rows and its columns: half the tiles suffice there.
"""

# m rows of this rank, N rows of all ranks, D width, T rows of a tile

from collections.abc import Iterator

import torch
from torch import Tensor

# Rows of a tile. On the CPU two tiles stay in the cache; a GPU wants fewer, larger products.
TILE = 1024
TILE_ON_GPU = 4096
# exp(kappa s) and its sums stay normal float32 numbers up to here (|s| <= 1); above, sums run in log space.
MAX_DIRECT_KAPPA = 40.0


def log_row_sums(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float) -> Tensor:
    """log sum_{j != i} exp(kappa z_i . z_j) of this rank's rows.

    Args:
        z_mD: this rank's unit vectors, rows first .. first + m of all_ND.
        all_ND: the unit vectors of all ranks.
        kappa: concentration, > 0.

    Returns:
        (m,) of z's dtype.
    """
    sum_up = _sum_directly if kappa <= MAX_DIRECT_KAPPA else _sum_in_logs
    return sum_up(z_mD, all_ND, first, kappa)


def attraction(z_mD: Tensor, all_ND: Tensor, log_sums_N: Tensor, first: int, kappa: float) -> Tensor:
    """sum_{j != i} (p_ij + p_ji) z_j of this rank's rows, p_ij = exp(kappa z_i . z_j - log_sums_i).

    This is 1/kappa times the gradient of sum_i log_sums_i. It needs the log sums of all ranks and nothing
    else of them: what row j of another rank contributes is known here, because the kernel is symmetric.

    Returns:
        (m, D) of z's dtype.
    """
    weigh = _weigh_directly if kappa <= MAX_DIRECT_KAPPA else _weigh_in_logs
    pull_mD, second_tile = torch.zeros_like(z_mD), _Tile(z_mD, all_ND)
    for logits_TT, rows, columns, mirrored in _logits(z_mD, all_ND, first, kappa):
        own_rows = _shift(rows, first)
        scratch_TT = second_tile.of_shape(*logits_TT.shape)
        p_TT = weigh(logits_TT, log_sums_N[own_rows], log_sums_N[columns], scratch_TT)
        _set_diagonal(p_TT, own_rows, columns, 0.0)
        pull_mD[rows].addmm_(p_TT, all_ND[columns])
        if mirrored:
            pull_mD[_shift(columns, -first)].addmm_(p_TT.T, z_mD[rows])
    return pull_mD


def _sum_directly(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float) -> Tensor:
    """Unit vectors bound the exponent by kappa, so no maximum is sought."""
    sums_m = z_mD.new_zeros(len(z_mD))
    for logits_TT, rows, columns, mirrored in _logits(z_mD, all_ND, first, kappa):
        k_TT = logits_TT.exp_()
        _set_diagonal(k_TT, _shift(rows, first), columns, 0.0)
        sums_m[rows] += k_TT.sum(dim=1)
        if mirrored:
            sums_m[_shift(columns, -first)] += k_TT.sum(dim=0)
    return sums_m.log_()


def _sum_in_logs(z_mD: Tensor, all_ND: Tensor, first: int, kappa: float) -> Tensor:
    logs_m = z_mD.new_full((len(z_mD),), -torch.inf)
    for logits_TT, rows, columns, mirrored in _logits(z_mD, all_ND, first, kappa):
        _set_diagonal(logits_TT, _shift(rows, first), columns, -torch.inf)
        logs_m[rows] = torch.logaddexp(logs_m[rows], logits_TT.logsumexp(dim=1))
        if mirrored:
            place = _shift(columns, -first)
            logs_m[place] = torch.logaddexp(logs_m[place], logits_TT.logsumexp(dim=0))
    return logs_m


def _weigh_directly(
    logits_TT: Tensor, log_rows_T: Tensor, log_columns_T: Tensor, scratch_TT: Tensor
) -> Tensor:
    """p_ij + p_ji in the place of the logits: one exponential of the tile serves both."""
    per_row, per_column = log_rows_T.neg().exp_(), log_columns_T.neg().exp_()
    return logits_TT.exp_().mul_(torch.add(per_row[:, None], per_column[None, :], out=scratch_TT))


def _weigh_in_logs(
    logits_TT: Tensor, log_rows_T: Tensor, log_columns_T: Tensor, scratch_TT: Tensor
) -> Tensor:
    by_row = torch.sub(logits_TT, log_rows_T[:, None], out=scratch_TT).exp_()
    return logits_TT.sub_(log_columns_T[None, :]).exp_().add_(by_row)


class _Tile:
    """Memory of one tile, made once and lent in the shape that is asked for."""

    def __init__(self, z_mD: Tensor, all_ND: Tensor) -> None:
        most = _tile_rows(z_mD.device)
        self.memory = z_mD.new_empty(min(most, len(z_mD)) * min(most, len(all_ND)))

    def of_shape(self, rows: int, columns: int) -> Tensor:
        return self.memory[: rows * columns].view(rows, columns)


def _logits(
    z_mD: Tensor, all_ND: Tensor, first: int, kappa: float
) -> Iterator[tuple[Tensor, slice, slice, bool]]:
    """kappa z_i . z_j tile by tile, each in the memory of the one before, with its place (see _tiles)."""
    tile = _Tile(z_mD, all_ND)
    for rows, columns, mirrored in _tiles(len(z_mD), len(all_ND), first, _tile_rows(z_mD.device)):
        logits_TT = tile.of_shape(rows.stop - rows.start, columns.stop - columns.start)
        torch.addmm(logits_TT, z_mD[rows], all_ND[columns].T, beta=0, alpha=kappa, out=logits_TT)
        yield logits_TT, rows, columns, mirrored


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


def _tile_rows(device: torch.device) -> int:
    return TILE if device.type == "cpu" else TILE_ON_GPU


def _set_diagonal(x_TT: Tensor, rows: slice, columns: slice, value: float) -> None:
    """A vector is no neighbour of itself; tiles hold the diagonal wholly or not at all."""
    if rows == columns:
        x_TT.fill_diagonal_(value)


def _shift(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
