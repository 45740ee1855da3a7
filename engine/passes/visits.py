"""A rank's walk over its share of a data set: every sample is seen once, or left out with a reason."""

import itertools
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from viewmill.engine.passes.reading import Reading, read_views
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.flow.left_out import LeftOut
from viewmill.pipelines.orders.subset import checked_members
from viewmill.pipelines.passes import share_of_segment
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


class Visits:
    """Hands this rank's batches to a visitor, segment after segment; batches are made ahead across segments.

    Args:
        dataset, views, reading: what is read, and how; one view a sample or several.
        ids, start, segment, left_out: see `read_once`.
        what: names the pass in the progress, which counts the samples of all ranks as far as rank 0 sees.

    Raises:
        ValueError: see `read_once`.
    """

    def __init__(
        self,
        dataset: Dataset,
        views: ViewSpec,
        reading: Reading,
        *,
        ids: ArrayLike | None = None,
        start: int = 0,
        segment: int | None = None,
        left_out: LeftOut | None = None,
        what: str = "images",
    ) -> None:
        self._dataset, self._reading, self._what = dataset, reading, what
        self._members = None if ids is None else checked_members(ids, dataset.num_samples)
        self._left_out = left_out
        where: dict[str, Any] = {"ids": ids, "start": start, "segment": segment, "left_out": left_out}
        self._batches: Iterator[Batch] = read_views(dataset, views, reading, **where)

    @property
    def num_places(self) -> int:
        """Samples of the pass over all ranks."""
        return self._dataset.num_samples if self._members is None else len(self._members)

    def read(self, places: range, visit: Callable[[Batch], None]) -> dict[int, str]:
        """Visits this rank's samples of the next segment; a batch without samples is not visited.

        Args:
            places: the segment, of all ranks; segments come in order.

        Returns:
            The samples of this rank's share of it that were left out, and why.

        Raises:
            RuntimeError: a sample came twice or not at all, or more than the budget were left out.
            ShardError, BatchDecodeError: a sample that cannot be used, without `left_out`.
        """
        world, size = self._reading.world, self._reading.batch_size
        own = share_of_segment(places, world.rank, world.world_size)
        seen, read = [np.empty(0, np.int64)], 0
        for batch in itertools.islice(self._batches, -(-len(own) // size)):
            seen.append(batch.ids)
            if len(batch.ids):
                visit(batch)
            read = min(read + size, len(own))
            done = places.start + min(read * world.world_size, len(places))
            self._reading.tell(self._what, done, self.num_places)
        return self._left_out_of(own, np.concatenate(seen))

    def _left_out_of(self, own: range, seen: np.ndarray) -> dict[int, str]:
        """The samples of the share that were left out; all the others were seen, and none twice."""
        share = slice(own.start, own.stop)
        expected = np.arange(own.start, own.stop) if self._members is None else self._members[share]
        # Those of the next segment may be known already, as batches are made ahead: they are not asked for.
        known = {} if self._left_out is None else dict(self._left_out.reasons)
        missing = np.setdiff1d(expected, seen).tolist()
        if set(missing) - known.keys() or len(missing) + len(seen) != len(expected):
            raise RuntimeError(
                f"{self._dataset.shown}: of the {len(expected)} samples from place {own.start} on, "
                f"{len(seen)} were read and {len(missing)} were not; a defect, please report it"
            )
        return {sample: known[sample] for sample in missing}

    def close(self) -> None:
        """Ends the threads that make batches ahead."""
        cast(Any, self._batches).close()

    def __enter__(self) -> "Visits":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
