"""The Loader: this rank's micro-batches, epoch after epoch, made ahead in a thread, resumable anywhere."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.flow.batches import Batch, BatchMaker
from viewmill.pipelines.flow.data_position import DataPosition
from viewmill.pipelines.flow.prefetch import Prefetcher
from viewmill.pipelines.flow.substitutes import Substitutes, Substitution
from viewmill.pipelines.order import ORDER_VERSION, SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import positions_of_micro_batch, size_of_micro_batch, steps_per_epoch
from viewmill.pipelines.plans.planner import PLAN_VERSION, ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples
from viewmill.pipelines.views import preset

__all__ = ["Batch", "Loader"]

_AHEAD = 8  # micro-batches whose samples are on their way from a remote store


class Loader:
    """The micro-batches of one rank; an `iter` covers the rest of the current epoch, the next one the next.

    Use it as a context manager, or close it, to end its thread; garbage ends it too.

    Args:
        dataset: stays the caller's to close, after the loader.
        spec: the views, or a preset's name.
        batch_size: of the whole job at one optimizer step; world_size x accumulation divides it.
        executor, device, num_threads, view_format, resident_bytes: see `fed_executor`.
        seed: of order and views.
        rank, world_size: which part of every global batch is read.
        accumulation: micro-batches of one optimizer step.
        prefetch: batches that wait ready; one more is in the making.
        max_substitutes: different bad samples that are replaced before it is an error.
        block, window: see `SampleOrder`.
        order: which samples stand where; None: `SampleOrder(dataset.num_samples, seed, block, window)`.

    Raises:
        ValueError: a number is outside its range or does not divide the batch, an unknown preset or executor,
            or an order of another data set.
        ImportError: the executor's library is not installed; names the extra.
    """

    def __init__(
        self,
        dataset: Samples,
        spec: ViewSpec | str,
        batch_size: int,
        *,
        executor: str = "auto",
        device: str = "cpu",
        view_format: ViewFormat = FLOAT32,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        num_threads: int = 2,
        resident_bytes: int | None = None,
        prefetch: int = 2,
        max_substitutes: int = 100,
        block: int = 1,
        window: int = 0,
        order: Order | None = None,
    ) -> None:
        self.spec = preset(spec) if isinstance(spec, str) else spec
        self.batch_size = batch_size
        self.accumulation = accumulation
        if prefetch < 1:
            raise ValueError(f"prefetch must be >= 1 batch, got {prefetch}")
        self._prefetch = prefetch
        self.order = _order_of(dataset, order, seed, block, window)
        num_steps = steps_per_epoch(self.order.num_samples, batch_size)
        self._share = _Share(num_steps, batch_size, accumulation, rank, world_size)
        self._share.positions(0, 0)  # refuses a rank outside the job and an indivisible batch at once
        self._at = DataPosition(
            dataset.data_set_hash,
            ORDER_VERSION,
            PLAN_VERSION,
            seed,
            self.order.describe(),
            epoch=0,
            position=0,
        )
        self._substitutes = Substitutes(dataset, self.order, seed, max_substitutes)
        self._executor, fetch = fed_executor(
            executor,
            dataset,
            self.spec,
            max_batch=size_of_micro_batch(batch_size, accumulation, world_size),
            num_threads=num_threads,
            device=device,
            view_format=view_format,
            resident_bytes=resident_bytes,
        )
        self._maker = BatchMaker(
            dataset,
            ViewPlanner(self.spec, seed),
            self._executor,
            self._substitutes,
            fetch,
            by_position=self.order.repeats,
        )
        self._ahead: Prefetcher[Batch] | None = None
        self._waited_s = 0.0  # of prefetchers that are gone
        self._closed = False

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last short batch is dropped."""
        return self._share.num_steps

    def __len__(self) -> int:
        """Micro-batches of one epoch."""
        return self.steps_per_epoch * self.accumulation

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch.

        Raises:
            RuntimeError: the loader is closed, or more samples are bad than max_substitutes.
        """
        epoch = self._at.epoch
        while self._at.epoch == epoch:
            batch = self._next()
            self._at = self._after(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands after the last batch handed out: plain data, the same on every rank."""
        return self._at.as_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of this data set, seed and version; world size and accumulation may differ.

        Raises:
            ValueError: the state is of other data or settings, or stands inside a micro-batch of this loader.
        """
        at = self._at.moved_to(state)
        micro_size = self._share.micro_size
        if at.position % micro_size or at.position >= self.steps_per_epoch * self.batch_size:
            raise ValueError(
                f"the loader's state stands at sample {at.position} of its epoch, which is not one of the "
                f"{len(self)} x {micro_size} samples where a micro-batch of this run begins "
                f"(batch {self.batch_size}, accumulation {self.accumulation}); "
                "resume with the batch size that it was saved with"
            )
        self._stop()
        self._at = at

    @property
    def wait_s(self) -> float:
        """Seconds that the consumer has waited for batches, in total."""
        return self._waited_s + (self._ahead.wait_s if self._ahead else 0.0)

    @property
    def substitutions(self) -> list[Substitution]:
        """Every sample that was replaced, with its substitute; batches made ahead are listed already."""
        return list(self._substitutes.made)

    @property
    def substituted(self) -> int:
        """How many samples have been replaced."""
        return len(self._substitutes.made)

    def close(self) -> None:
        """Ends the thread and gives the executor's memory back; batches already handed out stay valid."""
        self._closed = True
        self._stop()
        self._executor.close()

    def __enter__(self) -> "Loader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self) -> Batch:
        if self._closed:
            raise RuntimeError("this Loader is closed: make a new one")
        if self._ahead is None:
            # The thread knows nothing of the loader, which so can become garbage while it runs.
            batches = _batches(self._maker, self.order, self._share, self._at)
            self._ahead = Prefetcher(batches, self._prefetch)
        return self._ahead.next()

    def _stop(self) -> None:
        """End the thread and forget what it made ahead."""
        if self._ahead is not None:
            self._ahead.close()
            self._waited_s += self._ahead.wait_s
            self._ahead = None

    def _after(self, batch: Batch) -> DataPosition:
        """The position after this micro-batch of all ranks."""
        step = batch.step - batch.epoch * self.steps_per_epoch
        if batch.micro + 1 == self.accumulation and step + 1 == self.steps_per_epoch:
            return replace(self._at, epoch=batch.epoch + 1, position=0)
        position = step * self.batch_size + (batch.micro + 1) * self._share.micro_size
        return replace(self._at, epoch=batch.epoch, position=position)


def _order_of(dataset: Samples, order: Order | None, seed: int, block: int, window: int) -> Order:
    if order is None:
        return SampleOrder(dataset.num_samples, seed, block=block, window=window)
    if (block, window) != (1, 0):
        raise ValueError(
            f"block {block} and window {window} beside an order: give them to the order, or leave it out"
        )
    if order.num_ids != dataset.num_samples:
        raise ValueError(
            f"the order is of {order.num_ids} samples, {dataset.shown} has {dataset.num_samples}; "
            "make it of this data set"
        )
    return order


@dataclass(frozen=True)
class _Share:
    """Which part of every global batch this rank reads."""

    num_steps: int  # of an epoch
    global_batch: int
    accumulation: int
    rank: int
    world_size: int

    @property
    def micro_size(self) -> int:
        """Samples of one micro-batch of all ranks."""
        return self.global_batch // self.accumulation

    def positions(self, step: int, micro: int) -> range:
        """This rank's positions in the epoch's order."""
        return positions_of_micro_batch(
            step,
            micro,
            self.rank,
            global_batch=self.global_batch,
            accumulation=self.accumulation,
            world_size=self.world_size,
        )


class _Planned(NamedTuple):
    """A micro-batch before it is made, as `BatchMaker.make` takes it."""

    epoch: int
    position: int
    ids: np.ndarray
    step: int
    micro: int


def _batches(maker: BatchMaker, order: Order, share: _Share, at: DataPosition) -> Iterator[Batch]:
    """This rank's batches from a position on, epoch after epoch, without end."""
    planned = _planned(order, share, at)
    for batch in _announced(maker.dataset, planned) if maker.dataset.is_remote else planned:
        yield maker.make(*batch)


def _announced(dataset: Samples, planned: Iterator[_Planned]) -> Iterator[_Planned]:
    """The same batches; the data set fetches their samples while the `_AHEAD` batches before are made."""
    waiting: deque[_Planned] = deque()
    for batch in planned:
        dataset.prefetch(batch.ids)
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            yield waiting.popleft()


def _planned(order: Order, share: _Share, at: DataPosition) -> Iterator[_Planned]:
    first = at.position // share.micro_size
    for epoch in itertools.count(at.epoch):
        for index in range(first, share.num_steps * share.accumulation):
            step, micro = divmod(index, share.accumulation)
            here = share.positions(step, micro)
            ids = order.ids(epoch, here.start, here.stop)
            yield _Planned(epoch, here.start, ids, epoch * share.num_steps + step, micro)
        first = 0
