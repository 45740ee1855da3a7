"""What single parts of a step take on this machine: a loss, an update, views, collectives."""

import math
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from viewmill.engine.batchnorm import GlobalBatchNorm
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig
from viewmill.engine.heap import keep_freed_memory
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
SWEPT = 16 << 20  # numbers that are gone through between two calls: more than a cache holds
FEW, NORMED = (8, 64, 1, 1), (64, 64, 12, 12)  # of the BatchNorm: next to nothing; a stage of a small ResNet
GRADIENTS = [LARGE // 64] * 64  # numbers of the gradients that are averaged


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


class TwoRanks(NamedTuple):
    """What two gloo ranks take by the wall: most of a small collective is threads that wake each other."""

    latency_s: float  # of a small all-reduce; on a network the wire's comes on top
    rank_gb_s: float  # that a rank sends while gradients are averaged
    global_norm_call_s: (
        float  # more than one rank's, of a BatchNorm, forward and backward, without what it sends
    )
    global_norm_s: float  # more than one rank's, of a number that it normalises


def two_ranks() -> TwoRanks:
    """Collectives, and BatchNorm over all ranks beside that of one."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_on_a_rank, (folder,), 2, start_method="spawn")
        small, average, few, many = torch.load(f"{folder}/0.pt", weights_only=True)
    sent = 4 * LARGE  # 2 (W - 1) / W of the bytes, W = 2
    return TwoRanks(
        small,
        sent / 1e9 / max(average - small, 1e-9),
        max(0.0, few - 3 * small),
        max(0.0, many - few) / (math.prod(NORMED) - math.prod(FEW)),
    )


def norm_seconds(shape: tuple[int, ...]) -> float:
    """What a BatchNorm over all ranks takes more than torch's own, with its three small all-reduces."""
    x = torch.randn(*shape, requires_grad=True)
    norms = (GlobalBatchNorm(shape[1]), torch.nn.BatchNorm2d(shape[1]))
    of_all, of_one = (cold_seconds(partial(_forward_and_backward, norm, x), 15) for norm in norms)
    return of_all - of_one


def average(gradients: list[torch.Tensor]) -> None:
    """As DeepSpeed does at stage 0: all in one tensor, its share, the sum of the ranks, and back."""
    flat = torch.cat([one.flatten() for one in gradients]).mul_(1 / dist.get_world_size())
    dist.all_reduce(flat)
    for one, averaged in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        one.copy_(averaged.view_as(one))


def _forward_and_backward(norm: torch.nn.Module, x: torch.Tensor) -> None:
    norm(x).sum().backward()


def _on_a_rank(rank: int, folder: str) -> None:
    pin(rank)
    keep_freed_memory()  # as a run does
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        word, gradients = torch.ones(SMALL), [torch.ones(count) for count in GRADIENTS]
        found = [
            cold_seconds(lambda: dist.all_reduce(word), 60),
            cold_seconds(lambda: average(gradients), 15),
            *(norm_seconds(shape) for shape in (FEW, NORMED)),
        ]
        torch.save(found, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def cold_seconds(work: Callable[[], object], times: int) -> float:
    """The median time of a call whose memory is in no cache: as one part of a step finds it."""
    swept, found = torch.zeros(SWEPT), []
    work()
    for _ in range(times):
        swept.add_(1)
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)
