"""A shard's inputs read from a remote tree while the ones before them are decoded."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from viewmill.shards.storage.tree import FileState, Readable

_AT_ONCE = 8
_MOST_BYTES = 64 << 20  # on their way, or there and not asked for yet


class Planned(NamedTuple):
    """A range that will be asked for, as `Tree.read` takes it."""

    file: str
    offset: int
    size: int
    state: FileState


class _Ahead:
    """A tree whose next ranges are on their way already; a range that was not planned is read at once."""

    waits = True

    def __init__(self, tree: Readable, planned: Iterable[Planned], threads: ThreadPoolExecutor) -> None:
        self._tree, self._threads = tree, threads
        self._later = deque(planned)
        self._coming: deque[tuple[Planned, Future[bytes]]] = deque()

    def read(self, file: str, offset: int, size: int, planned: FileState) -> bytes:
        wanted = Planned(file, offset, size, planned)
        self._ask()
        if all(one != wanted for one, _ in self._coming):
            return self._tree.read(*wanted)
        one, future = self._coming.popleft()
        while one != wanted:  # those before it are not wanted any more
            one, future = self._coming.popleft()
        return future.result()

    def read_into(self, file: str, offset: int, room: memoryview, planned: FileState) -> None:
        room[:] = self.read(file, offset, len(room), planned)

    def is_there(self) -> bool:
        return self._tree.is_there()

    def _ask(self) -> None:
        num_bytes = sum(one.size for one, _ in self._coming)
        while self._later and len(self._coming) < 2 * _AT_ONCE:
            num_bytes += self._later[0].size
            if self._coming and num_bytes > _MOST_BYTES:
                return
            one = self._later.popleft()
            self._coming.append((one, self._threads.submit(self._tree.read, *one)))


@contextmanager
def reading_ahead(tree: Readable, planned: Iterable[Planned]) -> Iterator[Readable]:
    """The tree, to be read in the order that is planned; a local one as it is, the system reads ahead."""
    if not tree.waits:
        yield tree
        return
    threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="viewmill-ahead")
    try:
        yield _Ahead(tree, planned, threads)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
