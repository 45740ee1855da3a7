"""Passes over a whole data set or a subset: every sample once, whatever the number of samples and ranks."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from viewmill.pipelines.executors.executor import device_of_executor
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.flow.batches import Batch, BatchMaker, Planned
from viewmill.pipelines.flow.device_copy import Copy, CudaCopy, lend
from viewmill.pipelines.flow.flow import batches_of, new_stats
from viewmill.pipelines.flow.left_out import LeftOut, ThriftyMaker
from viewmill.pipelines.orders.interface import Order
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


def segments_of(num_samples: int, start: int = 0, segment: int | None = None) -> Iterator[range]:
    """The places from `start` on, `segment` at a time; None: all at once. The last segment may be short.

    Raises:
        ValueError: a segment below 1, or a start outside of [0, num_samples].
    """
    if not 0 <= start <= num_samples or (segment is not None and segment < 1):
        raise ValueError(
            f"need 0 <= start <= {num_samples} and a segment >= 1, got start {start} and segment {segment}"
        )
    size = segment or max(1, num_samples - start)
    return (range(first, min(first + size, num_samples)) for first in range(start, num_samples, size))


def share_of_segment(places: range, rank: int, world_size: int) -> range:
    """The contiguous share of a segment that `rank` reads; raises as `ids_of_rank`."""
    own = ids_of_rank(len(places), rank, world_size)
    return range(places.start + own.start, places.start + own.stop)


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
    start: int = 0,
    segment: int | None = None,
    left_out: LeftOut | None = None,
    view_format: ViewFormat = FLOAT32,
) -> Iterator[Batch]:
    """Every sample exactly once over all ranks, in id order, with the views of epoch 0.

    The last batch of a rank's share may be short, and shares may differ by a sample: gather with care. A
    sample that cannot be used is an error here, or left out, and never replaced: its row would then be
    another sample's.

    Args:
        batch_size: of this rank.
        executor, num_threads, device: see `fed_executor`.
        seed: of the views.
        ids: the samples of the pass, each once (`SubsetOrder.members`); None: all. Theirs are the same views.
        start: the first place to read, of all samples or of `ids` in ascending order.
        segment: so many places are shared out among the ranks, and read, before the next so many; batches do
            not cross from one to the next. None: all at once.
        left_out: takes the samples that cannot be used, whose batches lack them, and may become empty. None:
            such a sample is an error.
        view_format: dtype and layout of the views.

    Raises:
        ValueError: ids that are no subset, rank, start, segment or batch size is out of range, an unknown
            preset or executor, or a bad image (BatchDecodeError, with its key).
        ShardError: bytes that are not those that were written.
    """
    members = None if ids is None else checked_members(ids, dataset.num_samples)
    ids_of_rank(0, rank, world_size)  # refuses a rank outside the job before any work
    segments = segments_of(dataset.num_samples if members is None else len(members), start, segment)
    shares = (share_of_segment(places, rank, world_size) for places in segments)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    spec = preset(spec) if isinstance(spec, str) else spec
    at = device_of_executor(executor, device)
    runner, fetch = fed_executor(
        executor, dataset, spec, max_batch=batch_size, num_threads=num_threads, device=at,
        view_format=view_format,
    )  # fmt: skip
    copy = CudaCopy(device, runner.view_format) if at != device else None
    planner = ViewPlanner(spec, seed)
    if left_out is None:
        maker = BatchMaker(dataset, planner, runner, substitutes=None, fetch=fetch)
    else:
        maker = ThriftyMaker(dataset, planner, runner, fetch, left_out)
    return _handed_out(_planned(members, shares, batch_size), maker, copy)


def read_epochs(
    dataset: Samples,
    spec: ViewSpec | str,
    batch_size: int,
    order: Order,
    epochs: range,
    *,
    executor: str = "auto",
    num_threads: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: str = "cpu",
    seed: int = 0,
    view_format: ViewFormat = FLOAT32,
) -> Iterator[Batch]:
    """This rank's share of every batch, epoch after epoch: all positions of the order once in each epoch.

    Unlike `Loader`'s, the last batch of an epoch is kept and may be short, and shares may differ by a sample:
    rank r reads the places `ids_of_rank` gives it of the batch, and a batch without any for it is left out.
    Views are those that training by this seed draws. A sample that cannot be used is an error.

    Args:
        batch_size: of all ranks together.
        order: which samples stand where.
        epochs: those that are read, one after the other.
        executor, num_threads, device, view_format: see `fed_executor`.
        seed: of the views.

    Raises:
        As `read_once`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}")
    ids_of_rank(0, rank, world_size)  # refuses a rank outside the job before any work
    spec = preset(spec) if isinstance(spec, str) else spec
    at = device_of_executor(executor, device)
    runner, fetch = fed_executor(
        executor, dataset, spec, max_batch=-(-batch_size // world_size), num_threads=num_threads, device=at,
        view_format=view_format,
    )  # fmt: skip
    copy = CudaCopy(device, runner.view_format) if at != device else None
    planner = ViewPlanner(spec, seed)
    maker = BatchMaker(dataset, planner, runner, substitutes=None, fetch=fetch, by_position=order.repeats)
    return _handed_out(_planned_epochs(order, batch_size, epochs, rank, world_size), maker, copy)


def _planned_epochs(
    order: Order, batch_size: int, epochs: range, rank: int, world_size: int
) -> Iterator[Planned]:
    places = ((epoch, batch) for epoch in epochs for batch in segments_of(order.num_samples, 0, batch_size))
    for step, (epoch, batch) in enumerate(places):
        own = share_of_segment(batch, rank, world_size)
        if own:
            yield Planned(epoch, own.start, order.ids(epoch, own.start, own.stop), step, micro=0)


def _planned(members: np.ndarray | None, shares: Iterator[range], batch_size: int) -> Iterator[Planned]:
    starts = ((share, first) for share in shares for first in range(share.start, share.stop, batch_size))
    for step, (share, first) in enumerate(starts):
        stop = min(first + batch_size, share.stop)
        ids = np.arange(first, stop, dtype=np.int64) if members is None else np.array(members[first:stop])
        yield Planned(0, first, ids, step, micro=0)


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
