"""Shards at a URL, read by ranges through the local cache; what is needed soon is fetched ahead."""

import threading
from collections.abc import Generator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

from viewmill.shards.errors import ShardError, StorageError
from viewmill.shards.info import ShardInfo
from viewmill.shards.storage.cache import Cache
from viewmill.shards.storage.remote import RemoteTree
from viewmill.shards.storage.shard_files import Range, runs

_THREADS = 8
_MOST_AHEAD = 1 << 30  # bytes that are asked ahead and not there yet


class RemoteShards:
    """See `Shards`. Ranges that are on their way are waited for, not asked a second time."""

    def __init__(self, tree: RemoteTree, shards: Sequence[ShardInfo], cache: Cache) -> None:
        self._tree, self._shards, self._cache = tree, shards, cache
        self._lock = threading.Lock()
        self._coming: dict[Range, Future[dict[Range, bytes]]] = {}
        # Apart, so that what is needed now does not wait behind what will be needed later.
        self._now = ThreadPoolExecutor(_THREADS, thread_name_prefix="viewmill-fetch")
        self._ahead = ThreadPoolExecutor(_THREADS, thread_name_prefix="viewmill-fetch-ahead")
        self._closed = False

    def read(self, ranges: Sequence[Range]) -> Generator[bytes, None, None]:
        """As `Shards.read`; what is not in the cache is fetched at once, neighbours by one request."""
        there = {wanted: self._cache.get(self._name(wanted)) for wanted in dict.fromkeys(ranges)}
        missing = [wanted for wanted, data in there.items() if data is None]
        new, coming = self._ask(missing, self._now)
        self._tree.counts.add(hits=len(there) - len(new), misses=len(new))
        for wanted in ranges:
            data = there[wanted]
            yield self._arrived(coming[wanted])[wanted] if data is None else data

    def again(self, wanted: Range) -> bytes | None:
        self._cache.drop(self._name(wanted))
        return self._fetch([wanted])[wanted]

    def prefetch(self, ranges: Sequence[Range]) -> None:
        """Fetches those that are not there, as many as `_MOST_AHEAD` and half of the cache hold.

        The others, and those whose fetching fails, are fetched when they are read.
        """
        with self._lock:
            room = min(_MOST_AHEAD, self._cache.max_bytes // 2) - sum(one.size for one in self._coming)
        chosen = []
        for wanted in dict.fromkeys(ranges):
            if wanted.size <= room and not self._cache.has(self._name(wanted)):
                chosen.append(wanted)
                room -= wanted.size
        self._ask(chosen, self._ahead)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for threads in (self._now, self._ahead):
            threads.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self, ranges: list[Range], threads: ThreadPoolExecutor
    ) -> tuple[list[Range], dict[Range, "Future[dict[Range, bytes]]"]]:
        """The ranges that were not on their way, and where each of them all will arrive."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self._tree.base}: the data set is closed")
            new = [wanted for wanted in ranges if wanted not in self._coming]
            for run in runs(new):
                future = threads.submit(self._fetch_asked, run)
                self._coming.update(dict.fromkeys(run, future))
            return new, {wanted: self._coming[wanted] for wanted in ranges}

    def _arrived(self, future: "Future[dict[Range, bytes]]") -> dict[Range, bytes]:
        try:
            return future.result()
        except CancelledError:
            raise ValueError(f"{self._tree.base}: the data set is closed") from None

    def _fetch_asked(self, run: list[Range]) -> dict[Range, bytes]:
        try:
            return self._fetch(run)
        finally:
            with self._lock:
                for wanted in run:
                    self._coming.pop(wanted, None)

    def _fetch(self, run: list[Range]) -> dict[Range, bytes]:
        """The bytes of neighbouring ranges by one request, kept in the cache."""
        begin, end = run[0].offset, max(wanted.offset + wanted.size for wanted in run)
        data = self._bytes_of(self._shards[run[0].shard], begin, end - begin)
        parts = {wanted: data[wanted.offset - begin :][: wanted.size] for wanted in run}
        for wanted, part in parts.items():
            self._cache.put(self._name(wanted), part)
        return parts

    def _bytes_of(self, shard: ShardInfo, offset: int, size: int) -> bytes:
        shown = self._tree.shown(shard.name)
        try:
            return self._tree.range(shard.name, offset, size)
        except FileNotFoundError as error:
            raise ShardError(f"{shown}: the shard is gone; copy it there again") from error
        except StorageError:
            found = self._tree.state(shard.name).size  # where the store is ill, this says so again
            if found != shard.bytes:
                raise ShardError(
                    f"{shown}: {found} bytes, dataset.json says {shard.bytes}; copy it there again"
                ) from None
            raise

    def _name(self, wanted: Range) -> str:
        return f"{self._shards[wanted.shard].sha256} {wanted.offset} {wanted.size}"
