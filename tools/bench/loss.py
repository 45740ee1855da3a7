"""`bench loss`: forward and backward of HyDeS on the CPU, ours beside the whole kernel, time and memory."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from viewmill.methods.vmf import hydes_loss
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.loss_peers import whole_kernel_hydes
from viewmill.tools.bench.memory import peak_bytes
from viewmill.tools.bench.spread import medians, spread

KAPPA = 10.0
PEERS: dict[str, Callable[[Tensor], Tensor]] = {
    "viewmill": lambda z: hydes_loss(z, kappa=KAPPA).loss,
    "whole kernel": lambda z: whole_kernel_hydes(z, KAPPA, alpha=1.0, beta=1.0),
}
# What DESIGN asks for at N = 16384, D = 256: times the speed, and this share of the extra memory.
GOALS = {"speed": 4.0, "memory": 80.0}
MIB = 2**20
PAGE = 4096  # what the system counts memory in


def run(
    *,
    vectors: int = 16384,
    dim: int = 256,
    views: int = 8,
    repeats: int = 3,
    threads: int = 2,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures each peer in a process of its own, in turn, `repeats` times.

    Extra memory is the peak of the process beyond what stood before the loss, less the gradient of the
    embeddings; time is the faster of two calls in that process, so that no first call counts.

    Args:
        vectors: N, the rows of the kernel; a multiple of `views`.
        dim: D, of an embedding.
        views: V, at least 2.
        repeats: processes per peer; the figures are medians over them.
        threads: of torch, in every process.
        progress: told what is measured.

    Returns:
        JSON-able: settings, peers (seconds and extra MiB), ratios (plain over ours), fingerprint.

    Raises:
        ValueError: a setting below its least value, or `vectors` that `views` does not divide.
    """
    if min(dim, repeats, threads) < 1 or views < 2 or vectors < 2 * views or vectors % views:
        raise ValueError(
            f"vectors {vectors}, dim {dim}, views {views}, repeats {repeats}, threads {threads}: vectors "
            "must be a multiple of the views (2 or more), with 2 images at least; the rest at least 1"
        )
    tell = progress or (lambda _: None)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    for number in range(repeats):
        for name in PEERS:
            tell(f"round {number + 1} of {repeats}: {name}")
            measured[name].append(in_a_process(name, (views, vectors // views, dim), threads, seed=number))
    peers = {name: medians(rows) for name, rows in measured.items()}
    ours, plain = peers["viewmill"], peers["whole kernel"]
    return {
        "bench": "loss hydes",
        "settings": {"vectors": vectors, "dim": dim, "views": views, "kappa": KAPPA, "threads": threads},
        "repeats": repeats,
        "peers": peers,
        "ratios": {
            "speed": plain["seconds"] / ours["seconds"],
            "memory": plain["extra_mib"] / ours["extra_mib"],
        },
        "largest_gradient_difference": largest_gradient_difference(views, min(vectors, 2048) // views, dim),
        "fingerprint": fingerprint(),
    }


def in_a_process(name: str, shape: tuple[int, int, int], threads: int, seed: int) -> dict[str, float]:
    """What `measure` returns, from a fresh process: only there a peak means anything."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(measure, (name, shape, threads, seed))


def measure(name: str, shape: tuple[int, int, int], threads: int, seed: int) -> dict[str, float]:
    """Seconds and extra MiB of a forward and backward on embeddings (V, n, D)."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    PEERS[name](
        torch.randn(2, 8, 8, generator=generator, requires_grad=True)
    ).backward()  # loads what is lazy
    z = torch.randn(shape, generator=generator, requires_grad=True)
    before, seconds = peak_bytes(), []
    for _ in range(2):
        z.grad = None
        began = time.perf_counter()
        PEERS[name](z).backward()
        seconds.append(time.perf_counter() - began)
    extra = peak_bytes() - before - z.numel() * z.element_size()
    return {"seconds": min(seconds), "extra_mib": max(extra, PAGE) / MIB}


def largest_gradient_difference(views: int, images: int, dim: int) -> float:
    """Of the peers on the same embeddings, relative to the largest entry: they compute the same."""
    z = torch.randn(views, images, dim, generator=torch.Generator().manual_seed(0))
    gradients = []
    for loss in PEERS.values():
        leaf = z.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf), leaf)
        gradients.append(gradient)
    ours, plain = gradients
    return float((ours - plain).abs().max() / plain.abs().max())


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings = result["settings"]
    shown = Table(
        title=f"HyDeS, N = {settings['vectors']}, D = {settings['dim']}, {settings['views']} views, forward "
        f"and backward, {settings['threads']} threads, medians of {result['repeats']} (range)"
    )
    for heading in ("peer", "seconds", "extra MiB"):
        shown.add_column(heading, justify="left" if heading == "peer" else "right")
    for name, figures in result["peers"].items():
        shown.add_row(name, spread(figures, "seconds", 2), spread(figures, "extra_mib", 0))
    ratios = result["ratios"]
    shown.add_row(
        "ratio (goal)",
        f"{ratios['speed']:.1f} (>= {GOALS['speed']:.0f})",
        f"1/{ratios['memory']:.0f} (<= 1/{GOALS['memory']:.0f})",
    )
    return shown
