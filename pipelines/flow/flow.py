"""Stages one behind the other, from planned ids to batches, and the end of all their threads."""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from viewmill.pipelines.flow.batches import Batch, BatchMaker, Fetched, Planned
from viewmill.pipelines.flow.device_copy import Copy, copied
from viewmill.pipelines.flow.stage import Bounds, Load, Stage
from viewmill.pipelines.flow.stats import StageStats

log = logging.getLogger(__name__)

T = TypeVar("T")

READ_THREADS = 4  # one waits for a disk or a network while the others have their bytes
READ_AHEAD = 4  # micro-batches of encoded images
# Of the bytes that may be ahead, this part is for encoded images: a tenth of their views, as a rule.
_ENCODED_PART = 8
# For a batch in the making, and no less: an executor that is left at work can abort the interpreter's exit
# (DALI does), and the next flow would enter it a second time. A read may be left alone.
_PATIENCE_TO_MAKE_S = 20.0


class Flow(Generic[T]):
    """The results of the last of several stages, whose threads run from here on.

    The threads end at the end of the input, at `close`, when the flow is garbage, and at the interpreter's
    exit; they must not refer to the flow's owner, or it is never garbage. Each stage says how long its
    threads are waited for; one that takes longer is named in the log and ends when its item is done.

    Args:
        stages: each takes from the one before it.
    """

    def __init__(self, stages: Sequence[Stage[Any, Any]]) -> None:
        self._last: Stage[Any, T] = stages[-1]
        self._stages = tuple(stages)
        self._pid = os.getpid()
        self.wait_s = 0.0  # the caller's waiting, in total
        self._finalizer = weakref.finalize(self, _end, self._stages, self._pid)
        _ALIVE.add(self)
        # At the exit ahead of what the executor's library does there: DALI takes its pipelines from under the
        # threads. Functions run in the reverse of their order, and the library was imported before now.
        atexit.unregister(_end_all)
        atexit.register(_end_all)
        for stage in stages:
            stage.start()

    def next(self) -> T:
        """The next result.

        Raises:
            StopIteration: there are no more.
            RuntimeError: this process is a fork of the one that made the flow, or the flow is closed.
            BaseException: what a stage raised, again at every further call.
        """
        refuse_fork(self._pid)
        began_s = time.perf_counter()
        try:
            return self._last.take()
        finally:
            self.wait_s += time.perf_counter() - began_s

    def close(self) -> bool:
        """Ends the threads and drops what they made; whether all but those that read have ended."""
        self._finalizer()
        return not any(thread.is_alive() for stage in self._stages[1:] for thread in stage.threads)


_ALIVE: "weakref.WeakSet[Flow[Any]]" = weakref.WeakSet()


def _end_all() -> None:
    for flow in list(_ALIVE):
        flow.close()


def refuse_fork(pid: int) -> None:
    """Raises RuntimeError where this process is not the one with this id: threads do not cross a fork."""
    if os.getpid() != pid:
        raise RuntimeError(
            f"this Loader was made in process {pid}, and this is its fork {os.getpid()}, which has none of "
            "its threads; make the Loader in the process that iterates it, or start that with 'spawn'"
        )


def batches_of(
    maker: BatchMaker,
    planned: Iterator[Planned],
    *,
    prefetch: int,
    max_ahead_bytes: int,
    stats: Sequence[StageStats],
    copy: Copy | None = None,
) -> Flow[Batch]:
    """Reading, making and, with `copy`, copying: each in threads of its own, ahead of the caller.

    Args:
        maker: reads and makes; `planned`: what, in this order.
        prefetch: batches that wait ready; one more is in the making.
        max_ahead_bytes: of all that is ahead: an eighth for encoded images, the rest for views.
        stats: one for each stage, as `new_stats` makes them.
        copy: brings the views of a batch to another device.
    """
    encoded_bytes = max_ahead_bytes // _ENCODED_PART
    view_bytes = max_ahead_bytes - encoded_bytes
    sizes = maker.executor.spec.sizes
    form = maker.executor.view_format

    def load_of_read(batch: Planned) -> Load:
        return Load(len(batch.ids), maker.dataset.stored_bytes(batch.ids))

    def load_of_views(num_images: int) -> Load:
        return Load(num_images, sum(form.bytes_of(num_images, size) for size in sizes))

    def load_of_made(batch: Fetched) -> Load:
        return load_of_views(len(batch.planned.ids))

    read = Stage(planned.__next__, maker.read, load_of_read, Bounds(READ_AHEAD, encoded_bytes), stats[0])
    # With a copy the host's views are only on their way, and what waits ready waits on the device.
    made_bounds = Bounds(1 if copy else prefetch + 1, view_bytes)
    made = Stage(read.take, maker.finish, load_of_made, made_bounds, stats[1], _PATIENCE_TO_MAKE_S)
    if copy is None:
        return Flow([read, made])
    done = Stage(
        made.take,
        copied(copy),
        lambda batch: load_of_views(len(batch.ids)),
        Bounds(prefetch + 1, view_bytes),
        stats[2],
        _PATIENCE_TO_MAKE_S,
    )
    return Flow([read, made, done])


def new_stats(*, with_copy: bool) -> list[StageStats]:
    """Counters for the stages of `batches_of`."""
    stats = [StageStats("read", READ_THREADS), StageStats("make", 1)]
    return [*stats, StageStats("copy", 1)] if with_copy else stats


def _end(stages: Sequence[Stage[Any, Any]], pid: int) -> None:
    """Stops the stages; a function, so that the finalizer does not keep the flow alive."""
    if os.getpid() != pid:
        return  # a fork has none of the threads, and perhaps a lock that one of them held
    for stage in stages:
        stage.stop()
    began_s = time.monotonic()
    for stage in stages:
        for thread in stage.threads:
            # Garbage is collected in any thread, one of these too.
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, began_s + stage.patience_s - time.monotonic()))
                if thread.is_alive():
                    log.warning("%s is still at work; it ends with its item", thread.name)
