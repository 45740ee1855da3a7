"""What single parts of a step take on this machine: a loss, an update, views, collectives."""

import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig
from viewmill.engine.loading import loader_options
from viewmill.engine.samples import order_of_run
from viewmill.engine.world import World
from viewmill.methods.vmf import hydes_loss
from viewmill.pipelines.loader import Loader
from viewmill.shards.manifest import Dataset
from viewmill.tools.planning.loss_flops import hydes_flops
from viewmill.tools.planning.trained_steps import pin

REPEATS = 5
VECTORS, DIM, VIEWS = 1024, 256, 8  # of the loss that is measured
WEIGHTS = 8_000_000
SMALL, LARGE = 256, 8 << 20  # numbers of the collectives that are measured


def cpu_seconds(work: Callable[[], object]) -> float:
    """The least processor time of some calls, after one that does not count."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def loss_flops_per_s() -> float:
    """Of HyDeS's products, forward and backward, exponentials included."""
    z = torch.randn(VIEWS, VECTORS // VIEWS, DIM, requires_grad=True)
    flops = hydes_flops(VECTORS, VECTORS, DIM, VECTORS, triton=False)
    return flops / cpu_seconds(lambda: hydes_loss(z).loss.backward())


def weights_per_s() -> float:
    """That AdamW moves."""
    weight = torch.nn.Parameter(torch.randn(WEIGHTS))
    weight.grad = torch.randn(WEIGHTS)
    return WEIGHTS / cpu_seconds(torch.optim.AdamW([weight], lr=1e-4).step)


def view_seconds(config: RunConfig, data: str, batches: int = 8) -> float:
    """Processor seconds of the views of an image, by the run's own loader with nobody to train."""
    world = World(0, 1, 0, torch.device("cpu"))
    with Dataset.open(data) as dataset:
        options = loader_options(config, world, order_of_run(config, dataset))
        with Loader(dataset, resolve_views(config), config.batch_size, **options) as loader:
            found = _batches(loader, batches)
    return found / config.batch_size


def _batches(loader: Loader, count: int) -> float:
    """Processor seconds of a batch: what threads made ahead when the clock starts stands for what they have
    ahead when it ends.
    """
    made = 0
    while True:
        for _ in loader:
            made += 1
            if made == 4:
                began = time.process_time()
            if made == 4 + count:
                return (time.process_time() - began) / count


def collectives() -> tuple[float, float]:
    """(seconds of a small all-reduce, GB/s that a rank sends in a large one) of two gloo ranks.

    Of a rank's processor time, so that others on the core do not count; on a network, latency comes on top.
    """
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_collectives, (folder,), 2, start_method="spawn")
        small, large = torch.load(f"{folder}/0.pt", weights_only=True)
    sent = 4 * LARGE  # 2 (W - 1) / W of the bytes, W = 2
    return small, sent / 1e9 / max(large - small, 1e-9)


def _collectives(rank: int, folder: str) -> None:
    pin(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        found = []
        for numbers, times in ((SMALL, 200), (LARGE, 5)):
            x = torch.ones(numbers)
            dist.all_reduce(x)
            rounds = []
            for _ in range(REPEATS):
                began = time.process_time()
                for _ in range(times):
                    dist.all_reduce(x)
                rounds.append((time.process_time() - began) / times)
            found.append(min(rounds))
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()
