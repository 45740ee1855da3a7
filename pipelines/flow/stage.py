"""A stage: threads that take items, work on them, and keep the results in order until they are asked for."""

import threading
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from viewmill.pipelines.flow.stats import StageStats

T = TypeVar("T")
U = TypeVar("U")

_LOOK_S = 0.5  # how often one that waits looks whether those it waits for are still there


class Load(NamedTuple):
    """What an item holds when it has been worked on, known before."""

    images: int
    bytes: int


class Bounds(NamedTuple):
    """How much a stage may hold, ready and in the making. One item always may, however large it is."""

    batches: int
    bytes: int


class Stopped(RuntimeError):
    """The stage was stopped while somebody waited for it."""


class Stage(Generic[T, U]):
    """Results of `work` in the order of its input, made ahead within bounds.

    Room is reserved before an item is worked on, so that no result waits outside the queue. What `source` or
    `work` raises is raised by `take` in its place in the order, after the results before it, and again
    at every further call. Threads begin with `start`.

    Args:
        source: the next item; raises StopIteration at the end. Called by one thread at a time.
        work: makes a result of an item; with several threads, called by all of them at once.
        load_of: what a result will hold.
        bounds: of what is ready and in the making.
        stats: counted in; its name is that of the threads, its number of threads how many there are.
        patience_s: how long one who ends the stage waits for its threads.
    """

    def __init__(
        self,
        source: Callable[[], T],
        work: Callable[[T], U],
        load_of: Callable[[T], Load],
        bounds: Bounds,
        stats: StageStats,
        patience_s: float = 1.0,
    ) -> None:
        self.stats, self.patience_s = stats, patience_s
        self._source, self._work, self._load_of, self._bounds = source, work, load_of, bounds
        self._turn = threading.Lock()  # who holds it takes the next item, so that tickets follow the input
        self._changed = threading.Condition()  # guards all that follows, and the stats
        self._results: dict[int, tuple[U, Load]] = {}  # by ticket
        self._errors: dict[int, BaseException] = {}
        self._given = self._taken = 0  # tickets
        self._held_batches = self._held_bytes = 0  # reserved: ready and in the making
        self._is_stopped = self._has_ended = False
        self.threads = [
            # Daemons, so that the interpreter's exit does not wait for them before it asks them to stop.
            threading.Thread(target=self._run, name=f"viewmill-{stats.name}", daemon=True)
            for _ in range(stats.threads)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self.threads:
            thread.start()

    def take(self) -> U:
        """The next result, waited for.

        Raises:
            StopIteration: there are no more.
            BaseException: what the source or the work has raised.
            Stopped: the stage was stopped.
        """
        with self._changed:
            ticket = self._taken
            ready = self.stats.ready
            self._wait(lambda: ticket in self._results or ticket in self._errors)
            if ticket in self._errors:
                raise self._errors[ticket]
            result, load = self._results.pop(ticket)
            self._taken += 1
            self._held_batches -= 1
            self._held_bytes -= load.bytes
            self.stats.ready -= 1
            self.stats.ready_bytes -= load.bytes
            self.stats.taken += 1
            self.stats.found_ready += ready
            self._changed.notify_all()
            return result

    def stop(self) -> None:
        """Asks the threads to end after the items that they work on, and drops what is ready."""
        with self._changed:
            self._is_stopped = True
            self._results.clear()
            self.stats.ready = self.stats.ready_bytes = 0
            self._changed.notify_all()

    def _run(self) -> None:
        """A thread's life."""
        while True:
            with self._turn:
                if self._is_stopped or self._has_ended:
                    return
                ticket, item, load = self._next_item()
            if item is None or load is None:
                return
            began_s = time.perf_counter()
            try:
                result = self._work(item)
            except BaseException as error:  # it belongs to the one who takes, who raises it
                self._fail(ticket, error)
                return
            self._keep(ticket, result, load, time.perf_counter() - began_s)
            del item, result  # they may be hundreds of megabytes, and the next ones are being made

    def _next_item(self) -> tuple[int, T | None, Load | None]:
        """A ticket and its item with room reserved for its result; no item: there are no more to work on."""
        ticket = self._given
        try:
            self._wait_for_room(lambda: self._held_batches < self._bounds.batches)
            began_s = time.perf_counter()
            item = self._source()
            load = self._load_of(item)
            with self._changed:
                self.stats.input_wait_s += time.perf_counter() - began_s
            self._wait_for_room(
                lambda: not self._held_batches or self._held_bytes + load.bytes <= self._bounds.bytes
            )
        except Stopped:
            return ticket, None, None
        except BaseException as error:  # StopIteration too: the end has its place in the order
            self._fail(ticket, error)
            return ticket, None, None
        with self._changed:
            self._given += 1
            self._held_batches += 1
            self._held_bytes += load.bytes
        return ticket, item, load

    def _keep(self, ticket: int, result: U, load: Load, busy_s: float) -> None:
        with self._changed:
            self.stats.busy_s += busy_s
            self.stats.batches += 1
            self.stats.images += load.images
            self.stats.bytes += load.bytes
            if self._is_stopped:
                return
            self._results[ticket] = result, load
            self.stats.ready += 1
            self.stats.ready_bytes += load.bytes
            self._changed.notify_all()

    def _fail(self, ticket: int, error: BaseException) -> None:
        with self._changed:
            self._errors[ticket] = error
            self._has_ended = True  # no thread takes another item; those before this one are finished
            self._changed.notify_all()

    def _wait_for_room(self, is_there: Callable[[], bool]) -> None:
        began_s = time.perf_counter()
        with self._changed:
            while not is_there():
                if self._is_stopped or self._has_ended:
                    raise Stopped
                self._changed.wait(_LOOK_S)
            self.stats.room_wait_s += time.perf_counter() - began_s

    def _wait(self, is_there: Callable[[], bool]) -> None:
        """Waits for a result, but not for threads that are gone."""
        while not is_there():
            if self._is_stopped:
                raise Stopped(f"the stage '{self.stats.name}' has been stopped: the loader is closed")
            self._changed.wait(_LOOK_S)
            if not any(thread.is_alive() for thread in self.threads) and not is_there():
                raise RuntimeError(f"the threads of stage '{self.stats.name}' have ended: make a new Loader")
