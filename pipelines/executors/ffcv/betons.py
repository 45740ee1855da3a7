"""Betons as memory maps: the system reads the pages that are asked for, and drops them as it needs room."""

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from viewmill.shards.errors import ShardError
from viewmill.shards.storage.shard_files import Range

_MAX_MAPS = 256  # each holds a file open, of which a process may have 1,024


class MappedBetons:
    """Ranges of the shards of a folder, without a copy. Safe in several threads.

    A file that becomes shorter while it is mapped is noticed at the next read; in the instant between that
    and the decoding the system would end the process (SIGBUS), as it does with every map. Do not shorten
    shards in use.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._paths = [folder / name for name in names]
        self._lock = threading.Lock()
        self._maps: OrderedDict[int, mmap.mmap] = OrderedDict()  # the last one used stands last
        self._closed = False

    def read(self, ranges: Sequence[Range]) -> Iterator[memoryview]:
        """The bytes of each range, in order; fewer where a shard is cut short. A view keeps its map alive.

        Raises:
            ShardError: a shard is gone.
            ValueError: closed.
        """
        maps = {shard: self._map_of(shard) for shard in dict.fromkeys(wanted.shard for wanted in ranges)}
        whole = {shard for shard, found in maps.items() if found is not None and found.size() >= len(found)}
        for shard, offset, size in ranges:
            if shard in whole:
                self._ask_for(maps[shard], offset, size)
        for shard, offset, size in ranges:
            found = maps[shard]
            yield memoryview(b"" if found is None or shard not in whole else found)[offset : offset + size]

    def close(self) -> None:
        """Unmaps the shards, each when no view of it is left."""
        with self._lock:
            self._closed = True
            self._maps.clear()

    def _ask_for(self, found: "mmap.mmap | None", offset: int, size: int) -> None:
        """Has the system read these pages while the ranges before them are worked on."""
        if found is not None and 0 <= offset < offset + size <= len(found):
            start = offset - offset % mmap.PAGESIZE
            found.madvise(mmap.MADV_WILLNEED, start, offset + size - start)

    def _map_of(self, shard: int) -> "mmap.mmap | None":
        """The map of a shard; None where the shard is empty."""
        with self._lock:
            if self._closed:
                raise ValueError(
                    f"{self._paths[shard].parent}: its betons are unmapped, the executor is closed"
                )
            if shard not in self._maps:
                found = _mapped(self._paths[shard])
                if found is None:
                    return None
                if len(self._maps) == _MAX_MAPS:
                    self._maps.popitem(last=False)  # unmapped when the last view of it is dropped
                self._maps[shard] = found
            self._maps.move_to_end(shard)
            return self._maps[shard]


def _mapped(path: Path) -> "mmap.mmap | None":
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: the shard is gone; put it back or convert again") from error
    try:
        return mmap.mmap(file, 0, access=mmap.ACCESS_READ) if os.fstat(file).st_size else None
    finally:
        os.close(file)
