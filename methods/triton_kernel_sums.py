"""The sums of `kernel_sums` on a GPU: three Triton kernels, tile by tile, summing in float32.

The kernel matrix lives in registers only. What the gradient multiplies, p_ij + p_ji, is written a tile at a
time in the type of the embeddings and multiplied by a second kernel: an accumulator of D = 768 numbers a row
would not fit beside it. Nothing is added atomically, so the same input gives the same bits.

Imported only where Triton is used; `kernel_sums` decides that.
"""

# m rows of this rank, N rows of all ranks, D width, R x C a tile

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from viewmill.methods.kernel_sums import MAX_DIRECT_KAPPA
from viewmill.methods.kernel_tiles import among_own, nothing, tiles

TILE = 8192  # rows and columns of what one launch computes: 128 MiB of weights in a half type
SIDE = 128  # rows and columns of what one program computes
LOG2_E = tl.constexpr(1.4426950408889634)  # the GPU's exponential is one of base 2
# Weights near 1/N lie below float16's normal numbers; times this they do not, and at most 2 stays in range.
WEIGHT_SCALE = 2.0**14


def log_row_sums(all_ND: Tensor, own: slice, kappa: float, arrived: Callable[[], object] = nothing) -> Tensor:
    """As `kernel_sums.log_row_sums`; all_ND in float32, bfloat16 or float16; returns float32."""
    bounded = kappa <= MAX_DIRECT_KAPPA
    start = 0.0 if bounded else -torch.inf
    merged_m = all_ND.new_full((own.stop - own.start,), start, dtype=torch.float32)
    for rows, columns, mirrored in tiles(own, len(all_ND), TILE, arrived):
        by_row, by_column = _partial_sums(all_ND, rows, columns, mirrored, kappa, bounded)
        _merge(merged_m, among_own(rows, own), by_row, bounded)
        if mirrored:
            _merge(merged_m, among_own(columns, own), by_column, bounded)
    return merged_m.log_() if bounded else merged_m


def attraction(all_ND: Tensor, log_sums_N: Tensor, own: slice, kappa: float) -> Tensor:
    """As `kernel_sums.attraction`; log_sums_N and the result are float32."""
    pull_mD = all_ND.new_zeros((own.stop - own.start, all_ND.shape[1]), dtype=torch.float32)
    memory = all_ND.new_empty(min(TILE, own.stop - own.start) * min(TILE, len(all_ND)))
    for rows, columns, mirrored in tiles(own, len(all_ND), TILE):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        weights_RC = memory[: shape[0] * shape[1]].view(shape)
        _weigh(weights_RC, all_ND, log_sums_N, rows, columns, kappa)
        _add_product(pull_mD[among_own(rows, own)], weights_RC, all_ND[columns], transposed=False)
        if mirrored:
            _add_product(pull_mD[among_own(columns, own)], weights_RC, all_ND[rows], transposed=True)
    return pull_mD


def _partial_sums(
    all_ND: Tensor, rows: slice, columns: slice, mirrored: bool, kappa: float, bounded: bool
) -> tuple[Tensor, Tensor]:
    """Of each block of a tile its row sums and, where mirrored, its column sums: (blocks, R), (blocks, C).

    Sums of exponentials where `bounded`, else their logarithms.
    """
    count, across = rows.stop - rows.start, columns.stop - columns.start
    by_row = all_ND.new_empty((triton.cdiv(across, SIDE), count), dtype=torch.float32)
    by_column = all_ND.new_empty((triton.cdiv(count, SIDE) if mirrored else 0, across), dtype=torch.float32)
    with torch.cuda.device_of(all_ND):
        _sums_kernel[_blocks(count, across)](
            all_ND[rows], all_ND[columns], by_row, by_column, count, across, all_ND.shape[1], kappa,
            ITSELF=rows == columns, MIRRORED=mirrored, BOUNDED=bounded, **_form(all_ND),
        )  # fmt: skip
    return by_row, by_column


def _merge(merged_m: Tensor, place: slice, parts: Tensor, bounded: bool) -> None:
    if bounded:
        merged_m[place] += parts.sum(dim=0)
    else:
        merged_m[place] = torch.logaddexp(merged_m[place], parts.logsumexp(dim=0))


def _weigh(
    weights_RC: Tensor, all_ND: Tensor, log_sums_N: Tensor, rows: slice, columns: slice, kappa: float
) -> None:
    """WEIGHT_SCALE (p_ij + p_ji) of a tile, 0 on the diagonal."""
    with torch.cuda.device_of(all_ND):
        _weights_kernel[_blocks(*weights_RC.shape)](
            all_ND[rows], all_ND[columns], log_sums_N[rows], log_sums_N[columns], weights_RC,
            *weights_RC.shape, all_ND.shape[1], kappa, WEIGHT_SCALE,
            ITSELF=rows == columns, BOUNDED=kappa <= MAX_DIRECT_KAPPA, **_form(all_ND),
        )  # fmt: skip


def _add_product(out_RD: Tensor, weights: Tensor, z_CD: Tensor, *, transposed: bool) -> None:
    """out += weights @ z / WEIGHT_SCALE, or the weights' transpose."""
    with torch.cuda.device_of(z_CD):
        _product_kernel[_blocks(*out_RD.shape)](
            weights, z_CD, out_RD, *out_RD.shape, len(z_CD), 1 / WEIGHT_SCALE,
            TRANSPOSED=transposed, **_form(z_CD),
        )  # fmt: skip


def _blocks(rows: int, columns: int) -> tuple[int]:
    return (triton.cdiv(rows, SIDE) * triton.cdiv(columns, SIDE),)


def _form(z: Tensor) -> dict[str, Any]:
    """How a program is laid out; 128 bytes of a row are read at a time.

    Three stages of two blocks are 96 KiB of shared memory, which every GPU from 8.0 on has.
    """
    interpreted = triton.knobs.runtime.interpret
    return {
        "SIDE": SIDE,
        "CHUNK": 128 // z.element_size(),
        # Triton's interpreter keeps bfloat16 as integers and would multiply those.
        "UPCAST": bool(interpreted) and z.dtype == torch.bfloat16,
        "num_warps": 8,
        "num_stages": 3,
    }


@triton.jit
def _place(rows, columns, SIDE: tl.constexpr):
    """This program's block, (down, across): eight rows of blocks at a time, which share what they read."""
    down, across = tl.cdiv(rows, SIDE), tl.cdiv(columns, SIDE)
    program = tl.program_id(0)
    first = program // (8 * across) * 8
    height = tl.minimum(down - first, 8)
    within = program % (8 * across)
    return first + within % height, within // height


@triton.jit
def _similarities(
    a_ptr, b_ptr, rows, columns, num_rows, num_columns, dim,
    SIDE: tl.constexpr, CHUNK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """z_i . z_j of a block, summed in float32; 0 beyond the edges."""
    s = tl.zeros((SIDE, SIDE), tl.float32)
    a_rows, b_rows = rows.to(tl.int64) * dim, columns.to(tl.int64) * dim
    for start in range(0, dim, CHUNK):
        at = start + tl.arange(0, CHUNK)
        a = tl.load(a_ptr + a_rows[:, None] + at[None, :],
                    mask=(rows < num_rows)[:, None] & (at < dim)[None, :], other=0.0)  # fmt: skip
        b = tl.load(b_ptr + b_rows[None, :] + at[:, None],
                    mask=(columns < num_columns)[None, :] & (at < dim)[:, None], other=0.0)  # fmt: skip
        if UPCAST:
            a, b = a.to(tl.float32), b.to(tl.float32)
        # float32 in three products of its halves: the accuracy of float32 on the tensor cores.
        s = tl.dot(a, b, s, input_precision="tf32x3")
    return s


@triton.jit
def _log2_sum(x, AXIS: tl.constexpr):
    """log2 of the sum of 2^x along an axis; -inf where all are."""
    most = tl.max(x, AXIS)
    at = tl.where(most == -float("inf"), 0.0, most)
    total = tl.sum(tl.exp2(x - tl.expand_dims(at, AXIS)), AXIS)
    return at + tl.log2(total)


@triton.jit
def _sums_kernel(
    a_ptr, b_ptr, by_row_ptr, by_column_ptr, num_rows, num_columns, dim, kappa,
    ITSELF: tl.constexpr, MIRRORED: tl.constexpr, BOUNDED: tl.constexpr,
    SIDE: tl.constexpr, CHUNK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Row and column sums of a block of exp(kappa z_i . z_j), or their logarithms.

    Where a tile is its own mirror (ITSELF), blocks below the diagonal do nothing: the column sums of the
    block across the diagonal are their row sums.
    """
    down, across = _place(num_rows, num_columns, SIDE)
    if ITSELF and across < down:
        return
    rows = down * SIDE + tl.arange(0, SIDE)
    columns = across * SIDE + tl.arange(0, SIDE)
    x = _similarities(a_ptr, b_ptr, rows, columns, num_rows, num_columns, dim, SIDE, CHUNK, UPCAST)
    x *= kappa * LOG2_E
    counts = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    if ITSELF:
        counts &= rows[:, None] != columns[None, :]
    if BOUNDED:
        k = tl.where(counts, tl.exp2(x), 0.0)
        row_sums, column_sums = tl.sum(k, 1), tl.sum(k, 0)
    else:
        x = tl.where(counts, x, -float("inf"))
        row_sums, column_sums = _log2_sum(x, 1) / LOG2_E, _log2_sum(x, 0) / LOG2_E
    tl.store(by_row_ptr + across * num_rows + rows, row_sums, mask=rows < num_rows)
    if MIRRORED:
        tl.store(by_column_ptr + down * num_columns + columns, column_sums, mask=columns < num_columns)
    if ITSELF and across > down:
        tl.store(by_row_ptr + down * num_rows + columns, column_sums, mask=columns < num_columns)


@triton.jit
def _weights_kernel(
    a_ptr, b_ptr, row_logs_ptr, column_logs_ptr, weights_ptr, num_rows, num_columns, dim, kappa, scale,
    ITSELF: tl.constexpr, BOUNDED: tl.constexpr,
    SIDE: tl.constexpr, CHUNK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """scale (exp(kappa z_i . z_j - row_logs_i) + exp(kappa z_i . z_j - column_logs_j)) of a block.

    Where a tile is its own mirror, a block above the diagonal writes the one below it too.
    """
    down, across = _place(num_rows, num_columns, SIDE)
    if ITSELF and across < down:
        return
    rows = down * SIDE + tl.arange(0, SIDE)
    columns = across * SIDE + tl.arange(0, SIDE)
    x = _similarities(a_ptr, b_ptr, rows, columns, num_rows, num_columns, dim, SIDE, CHUNK, UPCAST)
    x *= kappa * LOG2_E
    by_row = tl.load(row_logs_ptr + rows, mask=rows < num_rows, other=0.0) * LOG2_E
    by_column = tl.load(column_logs_ptr + columns, mask=columns < num_columns, other=0.0) * LOG2_E
    if BOUNDED:
        # One exponential of the block serves both.
        w = tl.exp2(x) * (scale * (tl.exp2(-by_row)[:, None] + tl.exp2(-by_column)[None, :]))
    else:
        w = (tl.exp2(x - by_row[:, None]) + tl.exp2(x - by_column[None, :])) * scale
    counts = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    if ITSELF:
        w = tl.where(rows[:, None] == columns[None, :], 0.0, w)
    w = w.to(weights_ptr.dtype.element_ty)
    place = weights_ptr + rows.to(tl.int64)[:, None] * num_columns + columns[None, :]
    tl.store(place, w, mask=counts)
    if ITSELF and across > down:
        mirror = weights_ptr + columns.to(tl.int64)[:, None] * num_columns + rows[None, :]
        tl.store(mirror, tl.trans(w), mask=tl.trans(counts))


@triton.jit
def _product_kernel(
    weights_ptr, z_ptr, out_ptr, num_rows, dim, inner, scale,
    TRANSPOSED: tl.constexpr, SIDE: tl.constexpr, CHUNK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """out += scale weights @ z of a block; weights are (num_rows, inner), or (inner, num_rows) TRANSPOSED."""
    down, across = _place(num_rows, dim, SIDE)
    rows = down * SIDE + tl.arange(0, SIDE)
    columns = across * SIDE + tl.arange(0, SIDE)
    total = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, inner, CHUNK):
        at = (start + tl.arange(0, CHUNK)).to(tl.int64)
        if TRANSPOSED:
            w_place = at[None, :] * num_rows + rows[:, None]
        else:
            w_place = rows.to(tl.int64)[:, None] * inner + at[None, :]
        w = tl.load(weights_ptr + w_place, mask=(rows < num_rows)[:, None] & (at < inner)[None, :], other=0.0)
        z = tl.load(z_ptr + at[:, None] * dim + columns[None, :],
                    mask=(at < inner)[:, None] & (columns < dim)[None, :], other=0.0)  # fmt: skip
        if UPCAST:
            w, z = w.to(tl.float32), z.to(tl.float32)
        total = tl.dot(w, z, total, input_precision="tf32x3")
    place = out_ptr + rows.to(tl.int64)[:, None] * dim + columns[None, :]
    inside = (rows < num_rows)[:, None] & (columns < dim)[None, :]
    tl.store(place, tl.load(place, mask=inside, other=0.0) + total * scale, mask=inside)
