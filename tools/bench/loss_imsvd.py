"""`bench loss imsvd`: IMSVD beside the whole joint matrix; what a rank of several computes, holds, sends."""

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.utils.flop_counter import FlopCounterMode
from viewmill.methods.collectives import owned_columns
from viewmill.methods.imsvd import imsvd_loss
from viewmill.methods.joint_entropy import block_columns
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import IMSVD
from viewmill.tools.bench.loss_peers import whole_matrix_imsvd
from viewmill.tools.bench.loss_process import IN_PLACE, in_a_process, measure
from viewmill.tools.bench.memory import MIB
from viewmill.tools.bench.spread import medians, spread
from viewmill.tools.bench.traffic import counted

# What DESIGN asks for: of the plain version's time, and of its extra memory.
FLOAT_BYTES = 4


def ours(z1: Tensor, z2: Tensor, units: int) -> Tensor:
    return imsvd_loss(z1, z2, units=units).loss


PEERS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "viewmill": ours,
    "whole matrix": whole_matrix_imsvd,
}


def run(
    *,
    rows: int = 2048,
    dim: int = 8160,
    units: int = 80,
    repeats: int = 3,
    threads: int = 2,
    world_sizes: tuple[int, ...] = (1, 2, 4),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures each peer in processes of its own, in turn, and then one step of ours on several ranks.

    Args:
        rows: N, images of the global batch; a multiple of every world size.
        dim: D = M variables x `units`, M >= 2.
        units: values of a variable.
        repeats: processes per peer; the figures are medians over them.
        threads: of torch, in the peers' processes; a rank has one.
        world_sizes: gloo ranks on this machine, float32.
        progress: told what is measured.

    Returns:
        JSON-able: settings, peers (seconds, CPU seconds, extra MiB), ratios (plain over ours), ranks (per
        world size the most of a rank, see `most_of_a_rank`), fingerprint.

    Raises:
        ValueError: a setting that does not fit.
    """
    if min(rows, repeats, threads) < 1 or units < 2 or dim % units or dim < 2 * units:
        raise ValueError(
            f"rows {rows}, dim {dim}, units {units}, repeats {repeats}, threads {threads}: dim must be 2 or "
            "more variables of `units` (2 or more) each; the rest at least 1"
        )
    if any(count < 1 or rows % count for count in world_sizes):
        raise ValueError(f"{rows} rows are no equal shares of {', '.join(map(str, world_sizes))} ranks")
    tell = progress or (lambda _: None)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    for number in range(repeats):
        for name in PEERS:
            tell(f"round {number + 1} of {repeats}: {name}")
            measured[name].append(in_a_process(_one, name, rows, dim, units, threads, number))
    peers = {name: medians(found) for name, found in measured.items()}
    mine, plain = peers["viewmill"], peers["whole matrix"]
    ranks = {}
    for count in world_sizes:
        tell(f"{count} ranks")
        ranks[str(count)] = most_of_a_rank(count, rows, dim, units)
    return {
        "bench": "loss imsvd",
        "settings": {"rows": rows, "dim": dim, "units": units, "threads": threads},
        "repeats": repeats,
        "peers": peers,
        "ratios": {
            "speed": plain["seconds"] / mine["seconds"],
            "cpu_speed": plain["cpu_seconds"] / mine["cpu_seconds"],
            "memory": plain["extra_mib"] / mine["extra_mib"],
        },
        "largest_gradient_difference": largest_gradient_difference(
            min(rows, 256), min(dim, 8 * units), units
        ),
        "ranks": ranks,
        "fingerprint": fingerprint(),
    }


def logits(rows: int, dim: int, seed: int) -> list[Tensor]:
    """Two views."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, dim, generator=generator).requires_grad_() for _ in range(2)]


def _one(name: str, rows: int, dim: int, units: int, threads: int, seed: int) -> dict[str, float]:
    """What `measure` finds of a peer, after a small call that loads what is lazy."""
    torch.set_num_threads(threads)
    small1, small2 = logits(2, 2 * units, seed)
    PEERS[name](small1, small2, units).backward()
    return measure(lambda z1, z2: PEERS[name](z1, z2, units), logits(rows, dim, seed))


def largest_gradient_difference(rows: int, dim: int, units: int) -> float:
    """Of the peers, relative to the largest entry: they compute the same."""
    z1, z2 = logits(rows, dim, seed=0)
    found, expected = (torch.autograd.grad(peer(z1, z2, units), z1)[0] for peer in PEERS.values())
    return float((found - expected).abs().max() / expected.abs().max())


def most_of_a_rank(count: int, rows: int, dim: int, units: int) -> dict[str, float]:
    """The largest figure of any of `count` ranks, each with its share of the rows (see `_rank`)."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, args=(count, folder, rows, dim, units), nprocs=count)
        found = [torch.load(f"{folder}/{number}.pt", weights_only=True) for number in range(count)]
    return {name: max(figures[name] for figures in found) for name in found[0]}


def _rank(number: int, count: int, folder: str, rows: int, dim: int, units: int) -> None:
    """Stores what one step costs this rank.

    flops: of matrix products, an addition and a multiplication each one, as torch counts them.
    share_mib: the columns of P that the rank computes; block_mib: what of them is in memory at once.
    sent_bytes, formula_bytes: to the other ranks, as counted and as `cross_joint_entropy` says.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=count)
    try:
        share = rows // count
        views = [z.detach()[number * share : (number + 1) * share].clone().requires_grad_()
                 for z in logits(rows, dim, seed=0)]  # fmt: skip
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as flops, counted() as traffic:
            ours(views[0], views[1], units).backward()
        own = len(owned_columns(dim))
        exchanged = sum(sent for name, sent in traffic.sent.items() if name != "all_reduce")
        figures = {
            "flops": flops.get_total_flops(),
            "share_mib": dim * own * FLOAT_BYTES / MIB,
            "block_mib": dim * block_columns(dim, own, views[0].device, count) * FLOAT_BYTES / MIB,
            "sent_bytes": exchanged,
            "formula_bytes": bytes_sent(share, dim, own, count),
        }
        torch.save(figures, f"{folder}/{number}.pt")
    finally:
        dist.destroy_process_group()


def bytes_sent(n: int, dim: int, own: int, ranks: int, size: int = FLOAT_BYTES) -> int:
    """What a rank with n rows and `own` columns sends in forward and backward.

    A gathered and its gradient scattered, n D s (W - 1) each; the columns of B that others own, n (D - C) s;
    the rows of others of the owned columns' gradient, n C s (W - 1). Source: `cross_joint_entropy`.
    """
    return size * n * (2 * dim * (ranks - 1) + (dim - own) + own * (ranks - 1))


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, ratios = result["settings"], result["ratios"]
    shown = Table(
        title=f"IMSVD, N = {settings['rows']}, D = {settings['dim']}, float32, forward and backward, "
        f"{settings['threads']} threads, medians of {result['repeats']} (range); below: the most of a rank"
    )
    shown.add_column("peer or ranks")
    for heading in ("seconds", "CPU seconds", "extra MiB", "Tflop", "P MiB", "at once", "sent MiB"):
        shown.add_column(heading, justify="right")
    for name, figures in result["peers"].items():
        shown.add_row(name, *(spread(figures, column, digits) for column, digits in
                              (("seconds", 1), ("cpu_seconds", 1), ("extra_mib", 0))))  # fmt: skip
    shown.add_row(
        "ratio (goal)",
        f"{ratios['speed']:.2f} (>= {IMSVD['speed']:.0f})",
        f"{ratios['cpu_speed']:.2f}",
        f"1/{ratios['memory']:.1f} (<= 1/{IMSVD['memory']:.0f})",
    )
    for count, figures in result["ranks"].items():
        of_a_rank = (figures["flops"] / 1e12, figures["share_mib"], figures["block_mib"])
        cells = [f"{x:.3f}" for x in of_a_rank] + [f"{figures['sent_bytes'] / MIB:.1f}"]
        shown.add_row(f"{count} rank" + "s" * (count != "1"), "", "", "", *cells)
    return shown
