"""A pass over the whole data set: every sample once, whatever the number of samples and ranks."""

from collections.abc import Iterator

import numpy as np
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.flow.batches import Batch, BatchMaker
from viewmill.pipelines.flow.prefetch import Prefetcher
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import preset
from viewmill.shards.manifest import Dataset


def ids_of_rank(num_samples: int, rank: int, world_size: int) -> range:
    """The contiguous share of the ids that `rank` reads once; shares differ by one sample at most.

    Raises:
        ValueError: rank is outside the job.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)


def read_once(
    dataset: Dataset,
    spec: ViewSpec | str,
    batch_size: int,
    *,
    executor: str = "auto",
    num_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    seed: int = 0,
) -> Iterator[Batch]:
    """Every sample exactly once over all ranks, in id order, with the views of epoch 0.

    The last batch of a rank may be short, and ranks may differ by a sample: gather with care. A sample that
    cannot be used is an error here, not a substitute, since its row would then be another sample's.

    Args:
        batch_size: of this rank.
        executor, num_threads, device: see `fed_executor`.
        seed: of the views.

    Raises:
        ValueError: rank or batch size is out of range, an unknown preset or executor, or a bad image
            (BatchDecodeError, with its key).
        ShardError: bytes that are not those that were written.
    """
    share = ids_of_rank(dataset.num_samples, rank, world_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    spec = preset(spec) if isinstance(spec, str) else spec
    runner, fetch = fed_executor(
        executor, dataset, spec, max_batch=batch_size, num_threads=num_threads, device=device
    )
    maker = BatchMaker(dataset, ViewPlanner(spec, seed), runner, substitutes=None, fetch=fetch)
    return _handed_out(_batches(maker, share, batch_size), maker)


def _batches(maker: BatchMaker, share: range, batch_size: int) -> Iterator[Batch]:
    for step, start in enumerate(range(share.start, share.stop, batch_size)):
        ids = np.arange(start, min(start + batch_size, share.stop), dtype=np.int64)
        yield maker.make(0, start, ids, step, micro=0)


def _handed_out(batches: Iterator[Batch], maker: BatchMaker) -> Iterator[Batch]:
    """The batches, one made ahead; ends its thread and executor when it ends or is dropped."""
    ahead = Prefetcher(batches, depth=1)
    try:
        while True:
            try:
                batch = ahead.next()
            except StopIteration:
                return
            yield batch
    finally:
        ahead.close()
        maker.executor.close()
