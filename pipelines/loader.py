"""The Loader: this rank's micro-batches, epoch after epoch, made ahead in threads, resumable anywhere."""

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from viewmill.pipelines.executors.executor import device_of_executor, resolved_name
from viewmill.pipelines.executors.feeding import fed_executor
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.flow.batches import Batch, BatchMaker
from viewmill.pipelines.flow.data_position import DataPosition
from viewmill.pipelines.flow.device_copy import CudaCopy, lend
from viewmill.pipelines.flow.flow import Flow, batches_of, new_stats, refuse_fork
from viewmill.pipelines.flow.schedule import Share, announced, planned_batches
from viewmill.pipelines.flow.stats import LoaderStats, since
from viewmill.pipelines.flow.substitutes import Substitutes, Substitution
from viewmill.pipelines.order import ORDER_VERSION, SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import size_of_micro_batch, steps_per_epoch
from viewmill.pipelines.plans.planner import PLAN_VERSION, ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.samples import Samples
from viewmill.pipelines.views import preset

__all__ = ["Batch", "Loader"]


class Loader:
    """The micro-batches of one rank; an `iter` covers the rest of the current epoch, the next one the next.

    Use it as a context manager, or close it, to end its threads; garbage ends them too. Views of an executor
    that works on the CPU are copied to `device`. One process makes and iterates it: not a fork of that.

    Args:
        dataset: stays the caller's to close, after the loader.
        spec: the views, or a preset's name.
        batch_size: of the whole job at one optimizer step; world_size x accumulation divides it.
        executor, device, num_threads, view_format, resident_bytes: see `fed_executor`.
        seed: of order and views.
        rank, world_size: which part of every global batch is read.
        accumulation: micro-batches of one optimizer step.
        prefetch: batches that wait ready; one more is in the making.
        max_ahead_bytes: of encoded images and views that are ahead; one batch always may.
        max_substitutes: different bad samples that are replaced before it is an error; a float: their share.
        block, window: see `SampleOrder`.
        order: which samples stand where; None: `SampleOrder(dataset.num_samples, seed, block, window)`.
        replacing: (epoch, position) -> the sample that is taken there, whatever the order says: a replay's.

    executor: the executor's name, never "auto".

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
        max_ahead_bytes: int = 4 << 30,
        max_substitutes: int | float = 100,
        block: int = 1,
        window: int = 0,
        order: Order | None = None,
        replacing: Mapping[tuple[int, int], int] | None = None,
    ) -> None:
        self.executor = resolved_name(executor, device)
        self.spec = preset(spec) if isinstance(spec, str) else spec
        self.batch_size = batch_size
        self.accumulation = accumulation
        if prefetch < 1:
            raise ValueError(f"prefetch must be >= 1 batch, got {prefetch}")
        if max_ahead_bytes < 1:
            raise ValueError(f"max_ahead_bytes must be >= 1, got {max_ahead_bytes}")
        self._prefetch, self._max_ahead_bytes = prefetch, max_ahead_bytes
        self.order = _order_of(dataset, order, seed, block, window)
        num_steps = steps_per_epoch(self.order.num_samples, batch_size)
        self._share = Share(num_steps, batch_size, accumulation, rank, world_size)
        self._share.positions(0, 0)  # refuses a rank outside the job and an indivisible batch at once
        self._replacing = dict(replacing or {})
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
        executor_device = device_of_executor(executor, device)
        self._executor, fetch = fed_executor(
            executor,
            dataset,
            self.spec,
            max_batch=size_of_micro_batch(batch_size, accumulation, world_size),
            num_threads=num_threads,
            device=executor_device,
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
        self._copy = CudaCopy(device, view_format) if executor_device != device else None
        self._ahead: Flow[Batch] | None = None
        self._waited_s = 0.0  # for flows that are gone
        self._pid = os.getpid()
        self._closed = False
        self._stages = new_stats(with_copy=self._copy is not None)
        self.reset_stats()

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

    def stats(self) -> LoaderStats:
        """Where the time went since the loader was made, or since `reset_stats`; its `str` is a line."""
        return LoaderStats(
            stages=tuple(map(since, self._stages_before, self._stages)),
            passed_s=time.perf_counter() - self._counted_from_s,
            wait_s=self.wait_s - self._wait_before_s,
            batches=self._handed_out,
            substituted=self.substituted,
            bad_samples=self._substitutes.num_bad,
        )

    def reset_stats(self) -> None:
        """Sets the counts of `stats` to zero, but not `wait_s` and the substitutions, which are totals."""
        self._handed_out, self._counted_from_s = 0, time.perf_counter()
        self._wait_before_s = self.wait_s
        self._stages_before = [replace(stage) for stage in self._stages]

    @property
    def substitutions(self) -> list[Substitution]:
        """Every sample that was replaced, with its substitute; batches made ahead are listed already."""
        return list(self._substitutes.made)

    @property
    def substituted(self) -> int:
        """How many samples have been replaced."""
        return len(self._substitutes.made)

    def close(self) -> None:
        """Ends the threads and gives the executor's memory back; batches already handed out stay valid."""
        self._closed = True
        if os.getpid() == self._pid:  # a fork has no threads to end, and the executor is not its own
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
        refuse_fork(self._pid)
        if self._ahead is None:
            planned = planned_batches(self.order, self._share, self._at, self._replacing)
            # The threads know nothing of the loader, which so can become garbage while they run.
            self._ahead = batches_of(
                self._maker,
                announced(self._maker.dataset, planned) if self._maker.dataset.is_remote else planned,
                prefetch=self._prefetch,
                max_ahead_bytes=self._max_ahead_bytes,
                stats=self._stages,
                copy=self._copy,
            )
        batch = self._ahead.next()
        lend(batch.views)
        self._handed_out += 1
        return batch

    def _stop(self) -> None:
        """End the threads and forget what they made ahead."""
        if self._ahead is not None:
            has_ended = self._ahead.close()
            self._waited_s += self._ahead.wait_s
            self._ahead = None
            if not (has_ended or self._closed):
                self._closed = True  # another batch would enter the executor beside the one that is stuck
                raise RuntimeError(
                    f"executor '{self.executor}' does not come to the end of its batch: make a new Loader"
                )

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
