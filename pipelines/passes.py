"""A pass over a whole data set or a subset: every sample once, whatever the number of samples and ranks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from viewmill.pipelines.executors.executor import device_of_executor
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.flow.batches import Batch, BatchMaker, Planned
from viewmill.pipelines.flow.device_copy import Copy, CudaCopy, lend
from viewmill.pipelines.flow.flow import batches_of, new_stats
from viewmill.pipelines.orders.subset import checked_members
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples
from viewmill.pipelines.views import preset

_MAX_AHEAD_BYTES = 1 << 30  # of encoded images and views


def ids_of_rank(num_samples: int, rank: int, world_size: int) -> range:
    """The contiguous share of the ids (or of the places of a subset) that `rank` reads once.

    Shares differ by one sample at most.

    Raises:
        ValueError: rank is outside the job.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    return range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)


def read_once(
    dataset: Samples,
    spec: ViewSpec | str,
    batch_size: int,
    *,
    executor: str = "auto",
    num_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    seed: int = 0,
    ids: ArrayLike | None = None,
) -> Iterator[Batch]:
    """Every sample exactly once over all ranks, in id order, with the views of epoch 0.

    The last batch of a rank may be short, and ranks may differ by a sample: gather with care. A sample that
    cannot be used is an error here, not a substitute, since its row would then be another sample's.

    Args:
        batch_size: of this rank.
        executor, num_threads, device: see `fed_executor`.
        seed: of the views.
        ids: the samples of the pass, each once (`SubsetOrder.members`); None: all. Theirs are the same views.

    Raises:
        ValueError: ids that are no subset, rank or batch size is out of range, an unknown preset or executor,
            or a bad image (BatchDecodeError, with its key).
        ShardError: bytes that are not those that were written.
    """
    members = None if ids is None else checked_members(ids, dataset.num_samples)
    share = ids_of_rank(dataset.num_samples if members is None else len(members), rank, world_size)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    spec = preset(spec) if isinstance(spec, str) else spec
    at = device_of_executor(executor, device)
    runner, fetch = fed_executor(
        executor, dataset, spec, max_batch=batch_size, num_threads=num_threads, device=at
    )
    copy = CudaCopy(device, runner.view_format) if at != device else None
    maker = BatchMaker(dataset, ViewPlanner(spec, seed), runner, substitutes=None, fetch=fetch)
    return _handed_out(_planned(members, share, batch_size), maker, copy)


def _planned(members: np.ndarray | None, share: range, batch_size: int) -> Iterator[Planned]:
    for step, start in enumerate(range(share.start, share.stop, batch_size)):
        stop = min(start + batch_size, share.stop)
        ids = np.arange(start, stop, dtype=np.int64) if members is None else np.array(members[start:stop])
        yield Planned(0, start, ids, step, micro=0)


def _handed_out(planned: Iterator[Planned], maker: BatchMaker, copy: Copy | None) -> Iterator[Batch]:
    """The batches, made ahead; ends its threads and the executor when it ends or is dropped."""
    stats = new_stats(with_copy=copy is not None)
    ahead = batches_of(maker, planned, prefetch=1, max_ahead_bytes=_MAX_AHEAD_BYTES, stats=stats, copy=copy)
    try:
        while True:
            try:
                batch = ahead.next()
            except StopIteration:
                return
            lend(batch.views)
            yield batch
    finally:
        ahead.close()
        maker.executor.close()
