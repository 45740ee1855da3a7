"""Samples that cannot be used in a pass that must count every sample once: left out, never replaced."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from viewmill.pipelines.executors.executor import BatchDecodeError, Executor
from viewmill.pipelines.executors.feeding import Fetch
from viewmill.pipelines.flow.batches import Batch, BatchMaker, Fetched, Planned
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.samples import Samples
from viewmill.shards.errors import ShardError

log = logging.getLogger(__name__)


class LeftOut:
    """The samples of this rank that could not be used, and how many it bears.

    Args:
        budget: more are an error: so many bad samples are a lost disk rather than bad samples.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.reasons: dict[int, str] = {}  # id -> "sample 'KEY': why"

    def add(self, sample: int, reason: str, dataset: Samples) -> None:
        """Notes a sample.

        Raises:
            RuntimeError: it is one more than the budget; names the keys.
        """
        self.reasons[sample] = reason
        log.warning("%s; it is left out of the pass", reason)
        if len(self.reasons) > self.budget:
            raise too_many(self.reasons, self.budget, dataset)


def too_many(reasons: Mapping[int, str], budget: int, dataset: Samples) -> RuntimeError:
    """The error of more bad samples than the budget; names their keys."""
    return RuntimeError(
        f"{dataset.shown}: {len(reasons)} samples cannot be used, {budget} may be left out: "
        f"{'; '.join(reasons.values())}; run: viewmill verify {dataset.shown}"
    )


class ThriftyMaker(BatchMaker):
    """A BatchMaker whose batches lack the samples that cannot be used; a batch may become empty.

    A substitute, which training takes, would be counted twice here.
    """

    def __init__(
        self, dataset: Samples, planner: ViewPlanner, executor: Executor, fetch: Fetch, left_out: LeftOut
    ) -> None:
        super().__init__(dataset, planner, executor, substitutes=None, fetch=fetch)
        self._left_out = left_out

    def read(self, planned: Planned) -> Fetched:
        """The encoded images; None where some cannot be read, which `finish` looks into."""
        try:
            return super().read(planned)
        except ShardError:
            return Fetched(planned, None)

    def finish(self, fetched: Fetched) -> Batch:
        """The batch of those samples that can be used.

        Raises:
            RuntimeError: more bad samples than the budget.
        """
        planned, images = fetched
        if images is None:
            planned, images = self._readable(planned)
        while images:
            try:
                return super().finish(Fetched(planned, images))
            except BatchDecodeError as error:
                for row in error.rows:
                    self._left_out.add(int(planned.ids[row]), error.reasons[row], self.dataset)
                kept = [row for row in range(len(images)) if row not in error.reasons]
                planned, images = planned._replace(ids=planned.ids[kept]), [images[row] for row in kept]
        return self._empty(planned)

    def _readable(self, planned: Planned) -> tuple[Planned, list[Any]]:
        """The samples that can be read, one after another, and their images."""
        kept, images = [], []
        for row in range(len(planned.ids)):
            try:
                images += self._fetch(planned.ids[row : row + 1])
                kept.append(row)
            except ShardError as error:
                self._left_out.add(int(planned.ids[row]), str(error), self.dataset)
        return planned._replace(ids=planned.ids[kept]), images

    def _empty(self, planned: Planned) -> Batch:
        dtype = self.executor.view_format.torch_dtype
        views = [torch.empty(0, 3, size, size, dtype=dtype) for size in self.executor.spec.sizes]
        none = np.empty(0, dtype=np.int64)
        labels = torch.empty(0, dtype=torch.int64)
        return Batch(views, none, labels, planned.epoch, planned.step, planned.micro)
