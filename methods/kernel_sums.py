"""Row sums of the kernel exp(kappa z_i . z_j) over the global batch, and their gradient, tile by tile.

No rank ever holds more than two tiles of the N x N kernel, and these are reused. The kernel is symmetric, so
among a rank's own rows a tile serves its rows and its columns: half the tiles suffice there. This file is
plain torch; `triton_kernel_sums` does the same on a GPU that Triton supports.
"""

# m rows of this rank, N rows of all ranks, D width, T rows of a tile

import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from viewmill.methods.kernel_tiles import among_own, nothing, tiles

# Rows of a tile. On the CPU two tiles stay in the cache; a GPU wants fewer, larger products.
TILE = 1024
TILE_ON_GPU = 4096
# exp(kappa s) and its sums stay normal float32 numbers up to here (|s| <= 1); above, sums run in log space.
MAX_DIRECT_KAPPA = 40.0
LEAST_CAPABILITY = (8, 0)  # of a GPU, for Triton

Logits = Iterator[
    tuple[Tensor, slice, slice, bool]
]  # a tile, its rows and columns, and whether it is mirrored


def kernel_backend(device: torch.device, dtype: torch.dtype) -> str:
    """What computes the sums of embeddings like these: "triton" or "torch".

    Triton needs CUDA of compute capability 8.0 or more, and has no float64 here.
    """
    if device.type != "cuda" or dtype == torch.float64 or torch.version.hip is not None:
        return "torch"
    supported = torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY
    return "triton" if supported and importlib.util.find_spec("triton") is not None else "torch"


def kernel_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type that unit vectors of embeddings of `dtype` are gathered and multiplied in.

    Triton multiplies half types as they are and sums in float32; torch's half products would round the
    logits, so there half types go up.
    """
    at_least = torch.promote_types(dtype, torch.float32)
    return dtype if kernel_backend(device, dtype) == "triton" else at_least


def log_row_sums(all_ND: Tensor, own: slice, kappa: float, arrived: Callable[[], object] = nothing) -> Tensor:
    """log sum_{j != i} exp(kappa z_i . z_j) of this rank's rows, first among them, then with the others.

    Args:
        all_ND: the unit vectors of all ranks, of `kernel_dtype`.
        own: which of them are this rank's, m rows.
        kappa: concentration, > 0.
        arrived: waits for the rows of other ranks; they are not read before.

    Returns:
        (m,), float32 or float64.
    """
    if kernel_backend(all_ND.device, all_ND.dtype) == "triton":
        from viewmill.methods import triton_kernel_sums

        return triton_kernel_sums.log_row_sums(all_ND, own, kappa, arrived)
    sum_up = _sum_directly if kappa <= MAX_DIRECT_KAPPA else _sum_in_logs
    return sum_up(all_ND, own, _logits(all_ND, own, kappa, arrived))


def attraction(all_ND: Tensor, log_sums_N: Tensor, own: slice, kappa: float) -> Tensor:
    """sum_{j != i} (p_ij + p_ji) z_j of this rank's rows, p_ij = exp(kappa z_i . z_j - log_sums_i).

    This is 1/kappa times the gradient of sum_i log_sums_i. It needs the log sums of all ranks and nothing
    else of them: what row j of another rank contributes is known here, because the kernel is symmetric.

    Returns:
        (m, D) of log_sums_N's dtype.
    """
    if kernel_backend(all_ND.device, all_ND.dtype) == "triton":
        from viewmill.methods import triton_kernel_sums

        return triton_kernel_sums.attraction(all_ND, log_sums_N, own, kappa)
    weigh = _weigh_directly if kappa <= MAX_DIRECT_KAPPA else _weigh_in_logs
    pull_mD, second_tile = torch.zeros_like(all_ND[own]), _Tile(all_ND, own)
    for logits_TT, rows, columns, mirrored in _logits(all_ND, own, kappa):
        scratch_TT = second_tile.of_shape(*logits_TT.shape)
        p_TT = weigh(logits_TT, log_sums_N[rows], log_sums_N[columns], scratch_TT)
        _set_diagonal(p_TT, rows, columns, 0.0)
        pull_mD[among_own(rows, own)].addmm_(p_TT, all_ND[columns])
        if mirrored:
            pull_mD[among_own(columns, own)].addmm_(p_TT.T, all_ND[rows])
    return pull_mD


def _sum_directly(all_ND: Tensor, own: slice, logits: Logits) -> Tensor:
    """Unit vectors bound the exponent by kappa, so no maximum is sought."""
    sums_m = all_ND.new_zeros(own.stop - own.start)
    for logits_TT, rows, columns, mirrored in logits:
        k_TT = logits_TT.exp_()
        _set_diagonal(k_TT, rows, columns, 0.0)
        sums_m[among_own(rows, own)] += k_TT.sum(dim=1)
        if mirrored:
            sums_m[among_own(columns, own)] += k_TT.sum(dim=0)
    return sums_m.log_()


def _sum_in_logs(all_ND: Tensor, own: slice, logits: Logits) -> Tensor:
    logs_m = all_ND.new_full((own.stop - own.start,), -torch.inf)
    for logits_TT, rows, columns, mirrored in logits:
        _set_diagonal(logits_TT, rows, columns, -torch.inf)
        place = among_own(rows, own)
        logs_m[place] = torch.logaddexp(logs_m[place], logits_TT.logsumexp(dim=1))
        if mirrored:
            place = among_own(columns, own)
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

    def __init__(self, all_ND: Tensor, own: slice) -> None:
        most = _tile_rows(all_ND.device)
        self.memory = all_ND.new_empty(min(most, own.stop - own.start) * min(most, len(all_ND)))

    def of_shape(self, rows: int, columns: int) -> Tensor:
        return self.memory[: rows * columns].view(rows, columns)


def _logits(all_ND: Tensor, own: slice, kappa: float, arrived: Callable[[], object] = nothing) -> Logits:
    """kappa z_i . z_j tile by tile, each in the memory of the one before, with its place (see `tiles`)."""
    tile = _Tile(all_ND, own)
    for rows, columns, mirrored in tiles(own, len(all_ND), _tile_rows(all_ND.device), arrived):
        logits_TT = tile.of_shape(rows.stop - rows.start, columns.stop - columns.start)
        torch.addmm(logits_TT, all_ND[rows], all_ND[columns].T, beta=0, alpha=kappa, out=logits_TT)
        yield logits_TT, rows, columns, mirrored


def _tile_rows(device: torch.device) -> int:
    return TILE if device.type == "cpu" else TILE_ON_GPU


def _set_diagonal(x_TT: Tensor, rows: slice, columns: slice, value: float) -> None:
    """A vector is no neighbour of itself; tiles hold the diagonal wholly or not at all."""
    if rows == columns:
        x_TT.fill_diagonal_(value)
