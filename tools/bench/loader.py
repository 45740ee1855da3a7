"""`bench loader`: encoded images to views on the CPU, ours beside its peers, interleaved in one run."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Group
from rich.table import Table
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.flow.batches import BatchMaker
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import preset
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.ffcv_stock import ffcv_stock
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import LOADER, STOCK
from viewmill.tools.bench.loader_peers import dali_random, lightly_dino, torchvision_pil, torchvision_tensor
from viewmill.tools.bench.pools import KINDS, ImagePool
from viewmill.tools.bench.waterfall import table as waterfall_table
from viewmill.tools.bench.waterfall import waterfall

_ONE_SHARD = 1 << 40  # bytes
Runner = Callable[[int], float]  # round -> CPU seconds that were spent in other processes
PER_IMAGE = {
    "torchvision on Pillow": torchvision_pil,
    "torchvision v2 on uint8": torchvision_tensor,
    "lightly DINOTransform": lightly_dino,
}


def run(
    data: Path,
    *,
    repeats: int = 5,
    batch_size: int = 64,
    threads: int = 1,
    executors: Sequence[str] = ("host", "dali"),
    view_preset: str = "hydes",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures a batch of views per round and peer, in turn.

    Ours reads, checks, plans and executes; the peers get their bytes from memory. Peers that work image by
    image run on as many threads or processes as ours has threads, whichever was faster in a trial. With the
    ffcv executor FFCV's stock loader is a peer too; for both the data set is copied into a beton, its JPEGs
    as they are.

    Args:
        data: a data set of JPEGs with at least `batch_size` samples.
        repeats: rounds; the figures are medians over them.
        batch_size: images of a round.
        threads: of every peer.
        executors: ours, by name.
        view_preset: what every peer makes.
        progress: told what is measured.

    Returns:
        JSON-able: settings, peers (images/s and CPU ms an image, with quartiles), ratios, fingerprint, and
        with the host executor its stages.

    Raises:
        ValueError: a number below 1, or fewer samples than a batch.
    """
    if min(repeats, batch_size, threads) < 1:
        raise ValueError(
            f"repeats, batch size and threads must be >= 1, got {repeats}, {batch_size}, {threads}"
        )
    spec, tell = preset(view_preset), progress or (lambda _: None)
    with ExitStack() as stack, torch_threads(1):
        dataset = stack.enter_context(Dataset.open(data))
        if dataset.num_samples < batch_size:
            raise ValueError(f"{data}: {dataset.num_samples} samples, a batch of {batch_size} needs more")
        batches = id_batches(dataset, batch_size)
        runners: dict[str, Runner] = {}
        sources = dict.fromkeys(executors, (dataset, batches))
        if "ffcv" in executors:
            tell("the data set as a beton")
            sources["ffcv"] = beton, rows = stack.enter_context(as_beton(dataset, batches))
            runners[STOCK] = stack.enter_context(ffcv_stock(beton, spec, rows, threads))
        for name in executors:
            runners[ours(name)] = stack.enter_context(our_loader(name, *sources[name], spec, threads))
        encoded = [dataset.read(ids) for ids in batches]
        random = dali_random(spec, batch_size, threads)
        runners["DALI's own random operators"] = partial(_run_batch, random, encoded)
        pools = {}
        for name, make in PER_IMAGE.items():
            tell(f"{name}: threads or processes")
            pool = fastest_pool(make, spec, threads, encoded[0])
            stack.callback(pool.close)
            runners[name], pools[name] = partial(_run_pool, pool, encoded), pool.kind
        rounds = measure(runners, repeats, tell)
        stages = {}
        if "host" in executors:
            tell("host, by stage")
            stages = {"waterfall": waterfall(encoded[0], spec, repeats)}
    peers = {name: summary(rounds[name], batch_size) | pool_of(pools.get(name)) for name in runners}
    return {
        "bench": "loader",
        "preset": view_preset,
        "batch_size": batch_size,
        "threads": threads,
        "repeats": repeats,
        "images": {"count": len(batches) * batch_size, **pixels_of(dataset_sizes(data, batches))},
        "peers": peers,
        "ratios": {ours(name): ratios(peers, ours(name)) for name in executors},
        "fingerprint": fingerprint(
            "lightly", "numba", "simplejpeg", *(["ffcv"] if "ffcv" in executors else [])
        ),
    } | stages


def ours(executor: str) -> str:
    """The name of one of our executors in the results."""
    return f"viewmill {executor}, plan-fed"


def _executor_of(name: str) -> str:
    """The executor that `ours` has named."""
    return name.removeprefix("viewmill ").removesuffix(", plan-fed")


def id_batches(dataset: Dataset, batch_size: int) -> list[np.ndarray]:
    """Different images for successive rounds, as far as they go."""
    order = SampleOrder(dataset.num_samples, seed=0)
    starts = range(0, dataset.num_samples - batch_size + 1, batch_size)
    return [order.ids(0, start, start + batch_size) for start in starts]


@contextmanager
def our_loader(
    executor: str, dataset: Dataset, batches: list[np.ndarray], spec: ViewSpec, threads: int
) -> Iterator[Runner]:
    """What the Loader's thread does, but in this one, so that it spends no time while others are measured."""
    runner, fetch = fed_executor(executor, dataset, spec, max_batch=len(batches[0]), num_threads=threads)
    maker = BatchMaker(dataset, ViewPlanner(spec, seed=0), runner, substitutes=None, fetch=fetch)

    def make(number: int) -> float:
        maker.make(number, 0, batches[number % len(batches)], step=number, micro=0)
        return 0.0

    yield make
    runner.close()


@contextmanager
def as_beton(dataset: Dataset, batches: list[np.ndarray]) -> Iterator[tuple[Dataset, list[np.ndarray]]]:
    """The data set as one beton below the system's temporary folder, and the ids of the same images there."""
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        options = Options(format="ffcv", beton_images="jpeg", shard_bytes=_ONE_SHARD)
        convert_with(dataset.shown, Path(folder) / "beton", options)
        with Dataset.open(Path(folder) / "beton") as beton:
            id_of = {key: number for number, key in enumerate(beton.keys(np.arange(beton.num_samples)))}
            yield beton, [np.array([id_of[key] for key in dataset.keys(ids)]) for ids in batches]


def fastest_pool(
    make: Callable[[ViewSpec], Any], spec: ViewSpec, threads: int, images: list[bytes]
) -> ImagePool:
    """Threads or processes, by the shorter of two rounds each; one worker needs no pool."""
    if threads == 1:
        return ImagePool("threads", make, spec, 1)
    pools = [ImagePool(kind, make, spec, threads) for kind in KINDS]
    times = []
    for pool in pools:
        pool(images)  # starts the workers
        began_s = time.perf_counter()
        pool(images)
        times.append(time.perf_counter() - began_s)
    best = times.index(min(times))
    pools[1 - best].close()
    return pools[best]


def measure(
    runners: dict[str, Runner], repeats: int, tell: Callable[[str], None]
) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of every round of every runner, whose order turns from round to round."""
    names = list(runners)
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(-1, repeats):  # round -1 warms up and is not counted
        for name in names[number % len(names) :] + names[: number % len(names)]:
            tell(f"round {number + 1} of {repeats}: {name}")
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            elsewhere_s = runners[name](max(number, 0))
            spent = time.perf_counter() - wall_s, time.process_time() - cpu_s + elsewhere_s
            if number >= 0:
                rounds[name].append(spent)
    return rounds


def summary(rounds: list[tuple[float, float]], batch_size: int) -> dict[str, Any]:
    """Medians and quartiles of one peer."""
    speeds = [batch_size / wall_s for wall_s, _ in rounds]
    cpu_ms = [1000 * cpu_s / batch_size for _, cpu_s in rounds]
    return {
        "images_per_s": statistics.median(speeds),
        "images_per_s_quartiles": quartiles(speeds),
        "cpu_ms_per_image": statistics.median(cpu_ms),
        "cpu_ms_per_image_quartiles": quartiles(cpu_ms),
    }


def quartiles(values: list[float]) -> list[float]:
    return [float(value) for value in np.percentile(values, [25, 75])]


def pool_of(kind: str | None) -> dict[str, str]:
    return {"pool": kind} if kind else {}


def ratios(peers: dict[str, dict[str, Any]], name: str) -> dict[str, dict[str, float]]:
    """How many times as fast `name` is as every other peer and torchvision's best, by CPU time and wall."""
    found = {}
    for other, figures in peers.items():
        if other != name:
            found[other] = {
                "cpu": figures["cpu_ms_per_image"] / peers[name]["cpu_ms_per_image"],
                "wall": peers[name]["images_per_s"] / figures["images_per_s"],
            }
    torchvision = [found[other] for other in found if other.startswith("torchvision")]
    best = {measure: min(ratio[measure] for ratio in torchvision) for measure in ("cpu", "wall")}
    return found | {"torchvision": best}


def dataset_sizes(data: Path, batches: list[np.ndarray]) -> np.ndarray:
    with Dataset.open(data) as dataset:
        return dataset.sizes(np.concatenate(batches))


def pixels_of(sizes: np.ndarray) -> dict[str, list[int]]:
    """The median size of the images, which decides much of a loader's cost."""
    return {"median_width_height": [int(side) for side in np.median(sizes, axis=0)]}


def table(result: dict[str, Any]) -> Group:
    """The figures of a result, for the terminal."""
    shown = Table(
        title=f"loader: {result['preset']}, batch {result['batch_size']}, {result['threads']} threads each, "
        f"medians of {result['repeats']} rounds (quartiles); ratios of CPU time (goal)"
    )
    found = result["ratios"]
    for heading in (
        "peer",
        "images/s",
        "CPU ms/image",
        *(f"{_executor_of(name)} is faster by" for name in found),
    ):
        shown.add_column(heading, justify="left" if heading == "peer" else "right")
    for name, figures in result["peers"].items():
        shown.add_row(
            f"{name} ({figures['pool']})" if "pool" in figures else name,
            spread(figures, "images_per_s"),
            spread(figures, "cpu_ms_per_image"),
            *(ratio_beside_goal(found, of, name) for of in found),
        )
    best = "torchvision"
    shown.add_row(
        "torchvision, the better of the two", "", "", *(ratio_beside_goal(found, of, best) for of in found)
    )
    return Group(shown, *([waterfall_table(result["waterfall"])] if "waterfall" in result else []))


def ratio_beside_goal(found: dict[str, Any], of: str, peer: str) -> str:
    """How many times as fast one of ours is as a peer, with what DESIGN asks."""
    if peer not in found[of]:
        return ""
    goals = LOADER.get(_executor_of(of), {})
    asked = f" (>= {goals[peer]:g})" if peer in goals else ""
    return f"{found[of][peer]['cpu']:.2f}{asked}"


def spread(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_quartiles"]
    return f"{figures[name]:.1f} ({low:.1f}-{high:.1f})"


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Every peer brings its own workers: torch's own threads would be extra ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_batch(transform: Callable[[list[bytes]], Any], encoded: list[list[bytes]], number: int) -> float:
    transform(encoded[number % len(encoded)])
    return 0.0


def _run_pool(pool: ImagePool, encoded: list[list[bytes]], number: int) -> float:
    return pool(encoded[number % len(encoded)])
