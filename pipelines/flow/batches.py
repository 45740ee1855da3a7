"""Read, plan, execute: a batch of ids becomes a batch of views, good samples standing in for bad ones."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from viewmill.pipelines.executors.executor import BatchDecodeError, Executor
from viewmill.pipelines.executors.feeding import Fetch
from viewmill.pipelines.flow.substitutes import Substitutes
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.samples import Samples
from viewmill.shards.errors import ShardError


@dataclass(frozen=True)
class Batch:
    """One micro-batch of one rank: n images in V views."""

    views: list[torch.Tensor]  # V tensors (n, 3, S, S) of the view format, global views first
    ids: np.ndarray  # (n,) int64, the samples that were used: substitutes, where there are any
    labels: torch.Tensor  # (n,) int64, -1: none
    epoch: int
    step: int  # counted from 0 over the whole run
    micro: int  # which micro-batch of the step


class Planned(NamedTuple):
    """A micro-batch before it is read: its samples, and where they stand."""

    epoch: int
    position: int  # of the first sample in the epoch's order
    ids: np.ndarray  # (n,) int64
    step: int
    micro: int


class Fetched(NamedTuple):
    """A micro-batch whose images are read. images None: some are damaged, which `finish` looks into."""

    planned: Planned
    images: list[bytes] | None


class BatchMaker:
    """Makes the views of samples, whatever thread calls it; holds no position.

    `read` may run in several threads at once. `finish` runs in one, batch after batch: substitutes are chosen
    there alone, so that their list and their budget follow the order.

    Args:
        dataset, planner, executor: where bytes, parameters and pixels come from.
        substitutes: what to do with a bad sample; None: it is an error that names the key.
        by_position: draw views by the position in the epoch, not by the id: for an order that repeats ids.
        fetch: what feeds the executor, see `feeding.py`; None: the data set, with encoded images.
    """

    def __init__(
        self,
        dataset: Samples,
        planner: ViewPlanner,
        executor: Executor,
        substitutes: Substitutes | None,
        fetch: Fetch | None = None,
        *,
        by_position: bool = False,
    ) -> None:
        self.dataset = dataset
        self.planner = planner
        self.executor = executor
        self.substitutes = substitutes
        self.by_position = by_position
        self._fetch: Fetch = dataset.read if fetch is None else fetch

    def read(self, planned: Planned) -> Fetched:
        """The encoded images of the planned samples.

        Raises:
            ShardError: bytes that are missing or not those that were written, without substitutes.
        """
        try:
            return Fetched(planned, self._fetch(planned.ids))
        except ShardError:
            if self.substitutes is None:
                raise
            return Fetched(planned, None)

    def make(self, epoch: int, position: int, ids: np.ndarray, step: int, micro: int) -> Batch:
        """Reads and finishes one batch in this thread; raises what the two do."""
        return self.finish(self.read(Planned(epoch, position, ids, step, micro)))

    def finish(self, fetched: Fetched) -> Batch:
        """The batch whose images were read.

        Raises:
            RuntimeError: more bad samples than the budget allows.
            BatchDecodeError: an image that does not decode, without substitutes.
        """
        planned = fetched.planned
        work = _Work(planned, planned.ids.copy(), np.zeros(len(planned.ids), np.int64))
        images = fetched.images
        if images is None:
            images = [self._read_row(work, row) for row in range(len(work.ids))]
        while True:
            drawn_for = planned.position + np.arange(len(work.ids)) if self.by_position else work.ids
            plan = self.planner.draw(planned.epoch, drawn_for, self.dataset.sizes(work.ids))
            try:
                views = self.executor.run(images, plan)
            except BatchDecodeError as error:
                if self.substitutes is None:
                    raise self._with_keys(error, work.ids) from error
                for row, reason in error.reasons.items():
                    images[row] = self._replace(work, row, reason)
            else:
                labels = torch.from_numpy(self.dataset.labels(work.ids))
                return Batch(views, work.ids, labels, planned.epoch, planned.step, planned.micro)

    def _read_row(self, work: "_Work", row: int) -> Any:
        """What is fetched of this row's sample, or of the first substitute that has any."""
        while True:
            try:
                return self._fetch(work.ids[row : row + 1])[0]
            except ShardError as error:
                self._substitute(work, row, str(error))

    def _replace(self, work: "_Work", row: int, reason: str) -> Any:
        """Put a substitute into this row; returns what is fetched of it."""
        self._substitute(work, row, reason)
        return self._read_row(work, row)

    def _substitute(self, work: "_Work", row: int, reason: str) -> None:
        assert self.substitutes is not None  # `make` and `_read` have asked
        work.ids[row] = self.substitutes.replace(
            work.planned.epoch,
            work.planned.position + row,
            planned=int(work.planned.ids[row]),
            bad=int(work.ids[row]),
            attempt=int(work.attempts[row]),
            reason=reason,
        )
        work.attempts[row] += 1

    def _with_keys(self, error: BatchDecodeError, ids: np.ndarray) -> BatchDecodeError:
        keys = self.dataset.keys(ids[error.rows])
        return BatchDecodeError(
            {row: f"sample '{key}': {error.reasons[row]}" for row, key in zip(error.rows, keys, strict=True)}
        )


@dataclass(frozen=True)
class _Work:
    """A batch in the making; `ids` and `attempts` change as substitutes are put in."""

    planned: Planned
    ids: np.ndarray
    attempts: np.ndarray  # substitutes tried so far, by row
