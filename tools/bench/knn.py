"""`bench knn`: exact neighbours in blocks beside other ways, on a slice of ImageNet's size; no images needed.

The whole is 50,000 test against 1,281,167 training representations of 2,048 features. Time and memory of the
slice are measured; those of the whole follow from how they grow, which is checked on a larger slice.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor
from viewmill.engine.evaluation.knn import QUERY_BLOCK, nearest
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import KNN
from viewmill.tools.bench.loss_process import in_a_process
from viewmill.tools.bench.memory import MIB, PAGE, peak_bytes
from viewmill.tools.bench.spread import medians, spread

WHOLE = {"queries": 50_000, "bank": 1_281_167, "width": 2_048}
SEED = 0
OURS, PRODUCT, SKLEARN, BARE = "viewmill", "one product", "scikit-learn", "products alone"


def run(
    *,
    queries: int = 1024,
    bank: int = 65_536,
    width: int = WHOLE["width"],
    k: int = 200,
    threads: int = 1,
    repeats: int = 3,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures each way in a process of its own, in turn, `repeats` times.

    viewmill         `nearest`: blocks, ties by rule
    one product      all similarities at once, and torch's topk: what one writes first
    scikit-learn     brute force over unit vectors, in blocks of its own
    products alone   the multiplications of `nearest` and nothing else: what no such search can be faster than

    Args:
        queries, bank: rows of the slice, multiples of the search's blocks for the extrapolation to be fair.
        k: neighbours.
        threads: of torch and of scikit-learn.

    Returns:
        JSON-able: medians by peer, their ratios, and `whole`: what the search of ImageNet-1k takes.

    Raises:
        ValueError: no round, a slice of no block, or fewer rows than neighbours.
    """
    if repeats < 1 or queries < QUERY_BLOCK or not 1 <= k <= bank // 2:
        raise ValueError(
            f"queries must be at least {QUERY_BLOCK}, k within 1 .. bank / 2 and repeats at least 1; got "
            f"{queries}, {k} of {bank} and {repeats}"
        )
    tell = progress or (lambda _: None)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    halves: list[dict[str, float]] = []
    for number in range(repeats):
        for name in WAYS:
            tell(f"{name}, round {number + 1} of {repeats}")
            rows[name].append(in_a_process(measure, name, queries, bank, width, k, threads))
        tell(f"half of the bank, round {number + 1} of {repeats}")
        halves.append(in_a_process(measure, OURS, queries, bank // 2, width, k, threads))
    tell("twice the queries")
    twice = in_a_process(measure, OURS, 2 * queries, bank, width, k, threads)
    tell("the results of all queries")
    results = in_a_process(measure, OURS, WHOLE["queries"], 8192, 8, k, threads)
    peers, half = {name: medians(found) for name, found in rows.items()}, medians(halves)
    settings = {"queries": queries, "bank": bank, "width": width, "k": k, "threads": threads}
    return {
        "bench": "knn",
        "settings": settings | {"repeats": repeats},
        "peers": peers,
        "ratios": ratios_of(peers),
        "half_of_the_bank": half,
        "whole": whole_of(settings, peers[OURS], half, twice, results),
        "fingerprint": fingerprint(),
    }


def ratios_of(peers: dict[str, dict[str, Any]]) -> dict[str, float]:
    """CPU times and memories over ours, and ours over the products alone."""
    ours = peers[OURS]
    return {
        "speed_of_one_product": peers[PRODUCT]["cpu_seconds"] / ours["cpu_seconds"],
        "speed_of_scikit_learn": peers[SKLEARN]["cpu_seconds"] / ours["cpu_seconds"],
        "memory_of_one_product": peers[PRODUCT]["extra_mib"] / ours["extra_mib"],
        "memory_of_scikit_learn": peers[SKLEARN]["extra_mib"] / ours["extra_mib"],
        "of_the_products": ours["cpu_seconds"] / peers[BARE]["cpu_seconds"],
    }


def whole_of(
    settings: dict[str, int],
    full: dict[str, Any],
    half: dict[str, Any],
    twice: dict[str, float],
    results: dict[str, float],
) -> dict[str, Any]:
    """What the whole takes, if time is linear in the bank's rows and in the queries.

    T(n, N) = n / n0 (a + b N), with a and b from the slice and from half of its bank. What that gives for
    twice the queries, over what was measured there, is `predicted_over_measured`. Memory beside the features:
    that of the slice, whose blocks are of the same size, and what the results of all queries take.
    """
    queries, bank = settings["queries"], settings["bank"]
    slope = (full["cpu_seconds"] - half["cpu_seconds"]) / (bank - bank // 2)
    start = max(full["cpu_seconds"] - slope * bank, 0.0)
    seconds = WHOLE["queries"] / queries * (start + slope * WHOLE["bank"])
    features = (WHOLE["queries"] + WHOLE["bank"]) * settings["width"] * 4
    operations = 2.0 * WHOLE["queries"] * WHOLE["bank"] * settings["width"]
    return {
        **WHOLE,
        "width": settings["width"],
        "cpu_hours": seconds / 3600,
        "gflops": operations / seconds / 1e9,
        "predicted_over_measured": 2 * full["cpu_seconds"] / twice["cpu_seconds"],
        "features_mib": features / MIB,
        "extra_mib": full["extra_mib"] + results["extra_mib"],
    }


def measure(name: str, queries: int, bank: int, width: int, k: int, threads: int) -> dict[str, float]:
    """Seconds, CPU seconds and extra MiB of one search of normal numbers, after a small one."""
    torch.set_num_threads(threads)
    draws = torch.Generator().manual_seed(SEED)
    asked, known = (torch.randn(rows, width, generator=draws) for rows in (queries, bank))
    way = WAYS[name]
    way(asked[:QUERY_BLOCK], known[: 2 * k], min(k, 2 * k))  # starts threads and loads kernels
    before = peak_bytes()
    began, cpu_began = time.perf_counter(), time.process_time()
    way(asked, known, k)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    extra = max(peak_bytes() - before, PAGE) / MIB
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "extra_mib": extra}


def _in_blocks(queries: Tensor, bank: Tensor, k: int) -> None:
    nearest(queries, bank, k)


def _at_once(queries: Tensor, bank: Tensor, k: int) -> None:
    similarity = F.normalize(queries, dim=1) @ F.normalize(bank, dim=1).T
    similarity.topk(k, dim=1)


def _by_sklearn(queries: Tensor, bank: Tensor, k: int) -> None:
    """Of unit vectors the nearest are the most similar."""
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits

    search = NearestNeighbors(n_neighbors=k, algorithm="brute")
    with threadpool_limits(torch.get_num_threads()):
        search.fit(F.normalize(bank, dim=1).numpy())
        search.kneighbors(F.normalize(queries, dim=1).numpy())


def _products(queries: Tensor, bank: Tensor, k: int) -> None:
    for block in queries.split(QUERY_BLOCK):
        for rows in bank.split(8192):
            block @ rows.T


WAYS: dict[str, Callable[[Tensor, Tensor, int], None]] = {
    OURS: _in_blocks,
    PRODUCT: _at_once,
    SKLEARN: _by_sklearn,
    BARE: _products,
}


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, whole = result["settings"], result["whole"]
    shown = Table(
        title=f"knn: {settings['queries']:,} against {settings['bank']:,} of {settings['width']:,} features, "
        f"k = {settings['k']}, {settings['threads']} threads"
    )
    for heading in ("", "seconds", "CPU s", "MiB beside features"):
        shown.add_column(heading, justify="right" if heading else "left")
    for name, figures in result["peers"].items():
        cells = [spread(figures, key, 1) for key in ("seconds", "cpu_seconds")]
        shown.add_row(name, *cells, spread(figures, "extra_mib", 0))
    shown.add_section()
    found = result["ratios"]
    shown.add_row("CPU time of one product over ours", "", f"{found['speed_of_one_product']:.2f}", "")
    shown.add_row("CPU time of scikit-learn over ours", "", f"{found['speed_of_scikit_learn']:.2f}", "")
    shown.add_row("ours over the products alone", "", f"{found['of_the_products']:.2f}", "")
    shown.add_section()
    shown.add_row(
        f"{whole['queries']:,} against {whole['bank']:,}",
        "",
        f"{whole['cpu_hours']:.2f} h",
        f"{whole['extra_mib']:.0f} (<= {KNN['extra_mib']:.0f})",
    )
    shown.add_row(
        "extrapolated over measured, twice the queries", "", f"{whole['predicted_over_measured']:.2f}", ""
    )
    return shown
