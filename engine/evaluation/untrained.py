"""The untrained backbone, as fair a rival as it can be: several seeds, BatchNorm statistics of real images.

With the statistics it is born with (mean 0, variance 1), a deep net's representations nearly collapse, and
any training would beat it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from viewmill.engine.evaluation.features import ready, represent
from viewmill.engine.passes.reading import Reading
from viewmill.pipelines.executors.executor import make_executor
from viewmill.pipelines.flow.batches import BatchMaker
from viewmill.pipelines.views import ViewPlanner, ViewSpec
from viewmill.shards.manifest import Dataset

SEEDS = (0, 1, 2)
STATISTICS_IMAGES = 1024  # spread over the data set
STATISTICS_BATCH = 64  # fixed: the statistics must not change with the batch that fits a machine


def fresh_backbone(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """What `build` draws from this seed, the same on every rank; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def has_batchnorm(backbone: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in backbone.modules())


def estimate_batchnorm(
    backbones: Sequence[nn.Module], dataset: Dataset, views: ViewSpec, reading: Reading
) -> None:
    """Sets every BatchNorm's statistics to the mean over forward passes on images of the data set.

    Every rank reads the same images, so all have the same statistics whatever their number.

    Args:
        backbones: on any device; on return on the rank's, in evaluation mode.
        views: one view a sample, as they will be seen in evaluation.
    """
    if any(has_batchnorm(backbone) for backbone in backbones):
        settle_batchnorm(backbones, _spread_batches(dataset, views, reading), reading.world.device)


def settle_batchnorm(backbones: Sequence[nn.Module], batches: Iterable[Tensor], device: torch.device) -> None:
    """Sets every BatchNorm's statistics to the mean over a forward pass of each batch, (n, 3, H, W).

    Args:
        backbones: on any device; on return those with a BatchNorm are on `device`, in evaluation mode.
    """
    followers = [ready(backbone, device) for backbone in backbones if has_batchnorm(backbone)]
    norms = [m for backbone in followers for m in backbone.modules() if isinstance(m, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all passes, not a moving one
        norm.train()  # alone: dropout stays off
    for images in batches:
        for backbone in followers:
            represent(backbone, images, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def statistics_ids(num_samples: int, batch: int = STATISTICS_BATCH) -> list[np.ndarray]:
    """The samples of each forward pass: up to 1,024, evenly spread, and each batch spread likewise.

    A data set may be stored class by class; its first images would then be of one class.
    """
    count = min(num_samples, STATISTICS_IMAGES)
    ids = np.arange(count, dtype=np.int64) * num_samples // count
    num_batches = -(-count // batch)
    return [ids[first::num_batches] for first in range(num_batches)]


def _spread_batches(dataset: Dataset, views: ViewSpec, reading: Reading) -> Iterator[Tensor]:
    """(n, 3, S, S) of the images of `statistics_ids`."""
    executor = make_executor(
        reading.executor,
        views,
        max_batch=STATISTICS_BATCH,
        num_threads=reading.num_threads,
        device=reading.executor_device,
    )
    maker = BatchMaker(dataset, ViewPlanner(views, seed=0), executor, substitutes=None)
    batches = statistics_ids(dataset.num_samples)
    try:
        for step, ids in enumerate(batches):
            yield maker.make(0, 0, ids, step, micro=0).views[0]
            reading.tell("BatchNorm statistics", step + 1, len(batches))
    finally:
        executor.close()
