"""Ranks simulated in one process: Loaders on data without images, and an executor that shows its plan."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from viewmill.pipelines import loader as loader_module
from viewmill.pipelines.executors.feeding import Fed
from viewmill.pipelines.executors.view_format import FLOAT32
from viewmill.pipelines.flow.batches import BatchMaker, Planned
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.mixture import MixtureOrder, Part
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.orders.weighted import WeightedOrder
from viewmill.pipelines.plans.planner import ViewPlan, ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.pipelines.views import preset

SPEC = preset("imsvd")
KINDS = ["samples", "blocks", "subset", "weighted", "mixture"]


def order_of(kind: str, num_samples: int) -> Order:
    """An order of each kind over `num_samples` ids, whose epochs have about as many positions."""
    if kind == "samples":
        return SampleOrder(num_samples, seed=1)
    if kind == "blocks":
        return SampleOrder(num_samples, seed=1, block=8, window=100)
    if kind == "subset":
        return SubsetOrder(np.flatnonzero(np.arange(num_samples) % 10), num_samples, seed=1, block=4)
    if kind == "weighted":
        return WeightedOrder(np.arange(num_samples) % 4, num_samples, seed=1)
    large, small = num_samples - num_samples // 5, num_samples // 5
    return MixtureOrder([Part(SampleOrder(large, 2), 0.5), Part(SampleOrder(small, 3), 0.5)])


class Numbers:
    """A data set of numbers: no bytes, sizes that follow from the id."""

    data_set_hash, is_remote, shown = "numbers", False, "numbers"

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def read(self, ids: Sequence[int] | np.ndarray) -> list[bytes]:
        return [b""] * len(ids)

    def sizes(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        ids = np.asarray(ids)
        return np.stack([100 + ids % 400, 100 + ids % 333], axis=1)

    def labels(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        return np.asarray(ids) % 10

    def keys(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        return [str(sample) for sample in ids]

    def stored_bytes(self, ids: Sequence[int] | np.ndarray) -> int:
        return 0

    def prefetch(self, ids: Sequence[int] | np.ndarray) -> None:
        """Numbers are there already."""


class PlanExecutor:
    """Its one "view" is the plan: every parameter of every view of an image, as float64."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec, self.view_format = spec, FLOAT32

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        return [torch.from_numpy(as_numbers(plan))]

    def close(self) -> None:
        """There is nothing to give back."""


def as_numbers(plan: ViewPlan) -> np.ndarray:
    """(n, parameters x V) float64, exact."""
    columns = [np.asarray(getattr(plan, field.name), dtype=np.float64) for field in fields(plan)]
    return np.concatenate(columns, axis=1)


class AheadWithoutThread:
    """Makes `prefetch` batches ahead as a Flow does, in the caller's thread: 1,024 threads would stall."""

    wait_s = 0.0

    def __init__(self, maker: BatchMaker, planned: Iterator[Planned], *, prefetch: int, **_: object) -> None:
        self._maker, self._planned, self._prefetch = maker, planned, prefetch
        self._ready = deque[Batch]()

    def next(self) -> Batch:
        while len(self._ready) <= self._prefetch:
            self._ready.append(self._maker.make(*next(self._planned)))
        return self._ready.popleft()

    def close(self) -> None:
        """What was made ahead is lost with it."""


def fed_with_plans(name: str, dataset: Any, spec: ViewSpec, **_: object) -> Fed:
    return Fed(PlanExecutor(spec), dataset.read)


def show_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on Loaders carry no plan out, whatever executor they are told, and have no threads."""
    monkeypatch.setattr(loader_module, "fed_executor", fed_with_plans)
    monkeypatch.setattr(loader_module, "batches_of", AheadWithoutThread)


class Job:
    """W ranks that stand at the same place, begun anew or resumed."""

    def __init__(self, order: Order, batch_size: int, world_size: int, state: dict[str, Any] | None) -> None:
        data = Numbers(order.num_ids)
        self.ranks = [
            Loader(data, SPEC, batch_size, seed=9, order=order, rank=rank, world_size=world_size, prefetch=1)
            for rank in range(world_size)
        ]
        for loader in self.ranks:
            if state is not None:
                loader.load_state_dict(state)

    def step(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The number of the next step, its ids (B,) and plans (B, parameters) over all ranks."""
        batches = [next(iter(loader)) for loader in self.ranks]
        assert len({(batch.epoch, batch.step) for batch in batches}) == 1
        ids = np.concatenate([batch.ids for batch in batches])
        return batches[0].step, ids, torch.cat([batch.views[0] for batch in batches]).numpy()

    def state(self, rank: int) -> dict[str, Any]:
        return self.ranks[rank].state_dict()

    def kill(self) -> None:
        """What was made ahead is lost."""
        for loader in self.ranks:
            loader.close()


def planned(order: Order, batch_size: int, epochs: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (steps, B) and plans (steps, B, parameters) of whole epochs, drawn at once and without a Loader."""
    steps = order.num_samples // batch_size
    ids, plans = [], []
    for epoch in range(epochs):
        own = order.ids(epoch, 0, steps * batch_size)
        keys = np.arange(len(own)) if order.repeats else own
        plan = ViewPlanner(SPEC, 9).draw(epoch, keys, Numbers(order.num_ids).sizes(own))
        ids.append(own.reshape(steps, batch_size))
        plans.append(as_numbers(plan).reshape(steps, batch_size, -1))
    return np.concatenate(ids), np.concatenate(plans)
