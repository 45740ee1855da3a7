"""Runs an iterator ahead in a thread of its own, a bounded way, and ends that thread whatever happens."""

import contextlib
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_Entry = tuple[T | None, BaseException | None]
_Ready = queue.Queue[tuple[T | None, BaseException | None]]

_LOOK_S = 0.5  # how often a waiting thread looks whether the other one is still there


class Prefetcher(Generic[T]):
    """The items of an iterator, made ahead of the caller by a background thread.

    What the iterator raises is raised to the caller, after the items before it. The thread ends at the end
    of the iterator, at `close`, when the prefetcher is garbage, and at the interpreter's exit.

    Args:
        items: the iterator; it must not refer to the prefetcher's owner, or the owner is never garbage.
        depth: items that wait for the caller; one more is in the making.

    Raises:
        ValueError: a depth below 1.
    """

    def __init__(self, items: Iterator[T], depth: int) -> None:
        if depth < 1:
            raise ValueError(f"prefetch must be >= 1 batch, got {depth}")
        self.wait_s = 0.0  # the caller's waiting, in total
        self._ready: _Ready[T] = queue.Queue(depth)
        stop = threading.Event()
        # Daemon, so that the interpreter's exit does not wait for it before it asks it to stop.
        self._thread = threading.Thread(
            target=_produce, args=(items, self._ready, stop), name="viewmill-prefetch", daemon=True
        )
        self._end: BaseException | None = None
        self._finalizer = weakref.finalize(self, _stop, self._thread, self._ready, stop)
        self._thread.start()

    def next(self) -> T:
        """The next item.

        Raises:
            StopIteration: there are no more.
            BaseException: what the iterator raised, again at every further call.
        """
        began_s = time.perf_counter()
        try:
            item, self._end = (None, self._end) if self._end else self._wait()
        finally:
            self.wait_s += time.perf_counter() - began_s
        if self._end is not None:
            raise self._end
        return item  # type: ignore[return-value]  # an item, as there is no end

    def close(self) -> None:
        """Ends the thread, after the item that it is making."""
        self._finalizer()

    def _wait(self) -> "_Entry[T]":
        while True:
            try:
                return self._ready.get(timeout=_LOOK_S)
            except queue.Empty:
                if not self._thread.is_alive() and self._ready.empty():
                    return None, RuntimeError("the prefetching thread has ended: the loader is closed")


def _produce(items: Iterator[T], ready: "_Ready[T]", stop: threading.Event) -> None:
    """The thread's body; a function, so that the thread does not keep the prefetcher alive."""
    end: BaseException = StopIteration()
    try:
        for item in items:
            if not _put(ready, (item, None), stop):
                return
            del item  # it may be hundreds of megabytes, and the next one is being made
    except BaseException as error:  # it belongs to the caller, who raises it
        end = error
    _put(ready, (None, end), stop)


def _put(ready: "_Ready[T]", entry: "_Entry[T]", stop: threading.Event) -> bool:
    """Hand an entry over when there is room; False: no more are wanted."""
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_LOOK_S)
        except queue.Full:
            continue
        break
    return not stop.is_set()


def _stop(thread: threading.Thread, ready: "_Ready[T]", stop: threading.Event) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        while True:  # makes room for a thread that waits for some
            ready.get_nowait()
    if thread is not threading.current_thread():  # garbage is collected in any thread
        thread.join()
