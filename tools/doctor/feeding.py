"""A loader of its own that makes the same few batches over and over, for as long as they are asked for."""

import itertools
from collections.abc import Iterator, Sequence
from types import TracebackType

import numpy as np
from viewmill.pipelines.flow.batches import Batch, BatchMaker, Planned
from viewmill.pipelines.flow.flow import batches_of, new_stats


class Feeding:
    """Reads, plans and makes batches in threads like those of a run's loader; a context manager.

    Args:
        ids: the samples of each batch.
        prefetch, max_ahead_bytes: as in `batches_of`.
    """

    def __init__(
        self, maker: BatchMaker, ids: Sequence[np.ndarray], *, prefetch: int, max_ahead_bytes: int
    ) -> None:
        self.num_batches, self.prefetch = len(ids), prefetch
        self._flow = batches_of(
            maker,
            _again_and_again(ids),
            prefetch=prefetch,
            max_ahead_bytes=max_ahead_bytes,
            stats=new_stats(with_copy=False),
        )

    def __enter__(self) -> "Feeding":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._flow.close()

    @property
    def wait_s(self) -> float:
        """Seconds that callers of `next` have waited in total."""
        return self._flow.wait_s

    def next(self) -> Batch:
        """The next batch; waits for it. Raises what making it has raised."""
        return self._flow.next()


def _again_and_again(ids: Sequence[np.ndarray]) -> Iterator[Planned]:
    for step in itertools.count():
        for number, batch in enumerate(ids):
            yield Planned(0, 0, batch, step, number)
