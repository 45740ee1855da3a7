"""Views that are made while a training runs: how much each of the two holds up the other."""

import threading
from collections import defaultdict
from collections.abc import Sequence
from time import perf_counter
from types import TracebackType
from typing import NamedTuple

import numpy as np
from viewmill.pipelines.executors.executor import Executor
from viewmill.pipelines.flow.batches import Batch, BatchMaker, Fetched
from viewmill.pipelines.plans.planner import ViewPlanner
from viewmill.pipelines.samples import Samples
from viewmill.tools.doctor.feeding import Feeding

MOST_STEPS = 96  # of a measurement; what is not made by then is far slower than the training


class Slowdown(NamedTuple):
    """How many times as long each takes while the other one is at work; 1: they do not meet."""

    training: float = 1.0
    making: float = 1.0


class TimedMaker(BatchMaker):
    """Notes when each batch was made: its number among those that are made, beginning and end."""

    def __init__(self, dataset: Samples, planner: ViewPlanner, executor: Executor) -> None:
        super().__init__(dataset, planner, executor, None)
        self.made: list[tuple[int, float, float]] = []

    def finish(self, fetched: Fetched) -> Batch:
        began_s = perf_counter()
        batch = super().finish(fetched)
        self.made.append((fetched.planned.micro, began_s, perf_counter()))
        return batch


class Making(Feeding):
    """Makes its batches without a pause, and drops them; each as often as the others."""

    def __init__(
        self, maker: TimedMaker, ids: Sequence[np.ndarray], *, prefetch: int, max_ahead_bytes: int
    ) -> None:
        super().__init__(maker, ids, prefetch=prefetch, max_ahead_bytes=max_ahead_bytes)
        self._maker = maker
        self._is_over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._take, name="viewmill-take", daemon=True)

    def __enter__(self) -> "Making":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        super().__exit__(kind, error, traceback)
        self._thread.join()

    def batch_s(self, began_s: float, ended_s: float) -> float | None:
        """Of a batch, by those begun and ended between these moments, each counting alike; None: none.

        Raises what making them has raised.
        """
        if self._error is not None:
            raise self._error
        taken: dict[int, list[float]] = defaultdict(list)
        for number, start_s, end_s in list(self._maker.made):
            if began_s <= start_s and end_s <= ended_s:
                taken[number].append(end_s - start_s)
        means = [sum(found) / len(found) for found in taken.values()]
        return sum(means) / len(means) if means else None

    def _take(self) -> None:
        while not self._is_over:
            try:
                self.next()
            except BaseException as error:  # raised in the thread that asks
                self._error = None if self._is_over else error
                return


def steps_for(num_batches: int, batch_s: float, step_s: float, least: int) -> int:
    """Steps of a training during which each of the batches is made, and one is cut off at either end."""
    return min(MOST_STEPS, max(least, round((num_batches + 1) * batch_s / step_s) + 1))
