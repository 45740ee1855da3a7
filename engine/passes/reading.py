"""How images of a data set reach a model outside of training: by whom, how many at once, on which ranks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from numpy.typing import ArrayLike
from viewmill.engine.agreement import largest, raise_everywhere
from viewmill.engine.world import World
from viewmill.pipelines.executors.executor import CPU_EXECUTORS
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.flow.left_out import LeftOut
from viewmill.pipelines.passes import read_once
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

Progress = Callable[[str, int, int], None]  # what is read, samples done, samples in all
Result = TypeVar("Result")

# As `represent` feeds it: on the CPU convolutions are two to three times as fast in this layout.
_VIEWS = ViewFormat("float32", channels_last=True)


@dataclass(frozen=True)
class Reading:
    """How images are read: by whom, and how many at once. `progress` is called on rank 0."""

    world: World
    executor: str = "auto"
    num_threads: int = 2
    batch_size: int = 64  # of a rank; it changes speed and memory only
    progress: Progress | None = None
    beat: Callable[[], None] | None = None  # called on every rank after each batch

    @property
    def executor_device(self) -> str:
        """Where the views are made: "cpu" or "cuda"."""
        return "cpu" if self.executor in CPU_EXECUTORS else self.world.device.type

    def tell(self, what: str, done: int, total: int) -> None:
        if self.beat is not None:
            self.beat()
        if self.progress is not None and self.world.rank == 0:
            self.progress(what, done, total)


def together(world: World, work: Callable[[], Result]) -> Result:
    """work() on every rank; where one fails, all raise, so that none waits in the next collective."""
    result, error = None, None
    try:
        result = work()
    except Exception as caught:  # raised below, here and on every rank
        error = caught
    if largest(world, [error is not None])[0]:
        raise_everywhere(world, error)
    return cast(Result, result)


def read_views(
    dataset: Dataset,
    views: ViewSpec,
    reading: Reading,
    *,
    ids: ArrayLike | None = None,
    start: int = 0,
    segment: int | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[Batch]:
    """This rank's share of the data set or of `ids`, every sample once; see `read_once`."""
    where: dict[str, Any] = {"rank": reading.world.rank, "world_size": reading.world.world_size}
    return read_once(
        dataset,
        views,
        reading.batch_size,
        executor=reading.executor,
        num_threads=reading.num_threads,
        device=reading.executor_device,
        ids=ids,
        start=start,
        segment=segment,
        left_out=left_out,
        view_format=_VIEWS,
        **where,
    )
