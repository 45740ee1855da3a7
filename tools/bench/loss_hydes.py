"""`bench loss hydes`: forward and backward of HyDeS beside the whole kernel, time and memory."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from rich.table import Table
from torch import Tensor
from viewmill.methods import kernel_sums
from viewmill.methods.vmf import hydes_loss
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import HYDES, HYDES_GPU
from viewmill.tools.bench.loss_peers import whole_kernel_hydes
from viewmill.tools.bench.loss_process import device_of, in_a_process, measure, measure_on_gpu
from viewmill.tools.bench.spread import medians, spread

KAPPA = 10.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What DESIGN asks for: on a CPU at N = 16384, D = 256 times the speed and this share of the extra memory; on
# a GPU at N = 65536, D = 768 seconds and MiB.


def ours(z: Tensor) -> Tensor:
    return hydes_loss(z, kappa=KAPPA).loss


def blockwise_torch(z: Tensor) -> Tensor:
    """Ours as it runs where there is no Triton."""
    with mock.patch.object(kernel_sums, "kernel_backend", return_value="torch"):
        return hydes_loss(z, kappa=KAPPA).loss


def whole_kernel(z: Tensor) -> Tensor:
    return whole_kernel_hydes(z, KAPPA, alpha=1.0, beta=1.0)


PEERS: dict[str, Callable[[Tensor], Tensor]] = {
    "viewmill": ours,
    "whole kernel": whole_kernel,
    "blockwise torch": blockwise_torch,  # on a GPU only: elsewhere it is ours
}


def run(
    *,
    vectors: int = 16384,
    dim: int = 256,
    views: int = 8,
    repeats: int = 3,
    threads: int = 2,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures each peer in a process of its own, in turn, `repeats` times (see `measure`).

    Args:
        vectors: N, the rows of the kernel; a multiple of `views`.
        dim: D, of an embedding.
        views: V, at least 2.
        repeats: processes per peer; the figures are medians over them.
        threads: of torch, in every process.
        device: "cpu" or a GPU.
        dtype: of the embeddings, a name in DTYPES.
        progress: told what is measured.

    Returns:
        JSON-able: settings, peers (seconds and extra MiB), ratios (plain over ours), fingerprint.

    Raises:
        ValueError: a setting below its least value, `vectors` that `views` does not divide, no such type, or
            no such device.
    """
    if min(dim, repeats, threads) < 1 or views < 2 or vectors < 2 * views or vectors % views:
        raise ValueError(
            f"vectors {vectors}, dim {dim}, views {views}, repeats {repeats}, threads {threads}: vectors "
            "must be a multiple of the views (2 or more), with 2 images at least; the rest at least 1"
        )
    if dtype not in DTYPES:
        raise ValueError(f"dtype '{dtype}' is not one of {', '.join(DTYPES)}")
    where, tell = device_of(device), progress or (lambda _: None)
    names = [name for name in PEERS if where.type == "cuda" or name != "blockwise torch"]
    measured: dict[str, list[dict[str, float] | None]] = {name: [] for name in names}
    for number in range(repeats):
        for name in names:
            tell(f"round {number + 1} of {repeats}: {name}")
            shape = (views, vectors // views, dim)
            measured[name].append(in_a_process(_one, name, shape, threads, device, dtype, number))
    # None: more memory than the GPU has.
    peers = {name: medians(found) if (found := [row for row in rows if row]) else None
             for name, rows in measured.items()}  # fmt: skip
    return {
        "bench": "loss hydes",
        "settings": {
            "vectors": vectors, "dim": dim, "views": views, "kappa": KAPPA, "threads": threads,
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu", "dtype": dtype,
            "backend": kernel_sums.kernel_backend(where, DTYPES[dtype]),
        },
        "repeats": repeats,
        "peers": peers,
        "ratios": _ratios(peers["viewmill"], peers["whole kernel"]),
        "largest_gradient_difference": largest_gradient_difference(
            views, min(vectors, 2048) // views, dim, where, DTYPES[dtype]
        ),
        "fingerprint": fingerprint(),
    }  # fmt: skip


def _ratios(mine: dict[str, Any] | None, plain: dict[str, Any] | None) -> dict[str, float] | None:
    """The plain formula's figures over ours."""
    if mine is None or plain is None:
        return None
    return {
        "speed": plain["seconds"] / mine["seconds"],
        "memory": plain["extra_mib"] / mine["extra_mib"],
    }


def _one(
    name: str, shape: tuple[int, int, int], threads: int, device: str, dtype: str, seed: int
) -> dict[str, float] | None:
    """What `measure` finds of a peer on embeddings (V, n, D), after a small call that loads what is lazy."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    small, z = (
        torch.randn(size, generator=generator).to(device, DTYPES[dtype]).requires_grad_()
        for size in ((2, 8, 8), shape)
    )
    PEERS[name](small).backward()
    return (measure_on_gpu if z.is_cuda else measure)(PEERS[name], [z])


def largest_gradient_difference(
    views: int, images: int, dim: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Ours from the plain formula's in float32, relative to its largest entry: they compute the same."""
    z = torch.randn(views, images, dim, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    mine, plain = z.clone().requires_grad_(), z.float().requires_grad_()
    (found,) = torch.autograd.grad(ours(mine), mine)
    (expected,) = torch.autograd.grad(whole_kernel(plain), plain)
    return float((found.float() - expected).abs().max() / expected.abs().max())


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, ratios = result["settings"], result["ratios"]
    on_gpu = settings["device"] != "cpu"
    where = settings["device"] if on_gpu else f"{settings['threads']} threads"
    shown = Table(
        title=f"HyDeS, N = {settings['vectors']}, D = {settings['dim']}, {settings['views']} views, "
        f"{settings['dtype']}, forward and backward, {where}, medians of {result['repeats']} (range)"
    )
    for heading in ("peer", "seconds", "extra MiB"):
        shown.add_column(heading, justify="left" if heading == "peer" else "right")
    for name, figures in result["peers"].items():
        if figures is None:
            shown.add_row(name, "out of memory", "")
        else:
            shown.add_row(name, spread(figures, "seconds", 4), spread(figures, "extra_mib", 0))
    if on_gpu:
        shown.add_row("goal", f"{HYDES_GPU['seconds']:.4f}", f"{HYDES_GPU['extra_mib']:.0f}")
    if ratios is not None:
        speed, memory = f"{ratios['speed']:.1f}", f"1/{ratios['memory']:.0f}"
        if not on_gpu:
            speed, memory = f"{speed} (>= {HYDES['speed']:.0f})", f"{memory} (<= 1/{HYDES['memory']:.0f})"
        shown.add_row("ratio" if on_gpu else "ratio (goal)", speed, memory)
    return shown
