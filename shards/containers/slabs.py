"""A file that grows by slabs: filled by its caller, hashed and written by a thread behind it, if it may."""

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from typing import BinaryIO, NamedTuple

from viewmill.shards.durable import Writeback

# So much costs one hand-over to the thread and one call of the system; more would leave the cache between.
SLAB_BYTES = 1 << 20
_MOST_PENDING = 3 * SLAB_BYTES  # handed over and not written yet; a single slab may be larger
_COPIED_BYTES = SLAB_BYTES // 4  # larger pieces are written from where they are
# Slabs between two files: memory that is new costs a fault a page, in all as much as its hash.
_FREE: list[bytearray] = []
_MOST_FREE = 4


class Scratch:
    """Memory that is read into again and again."""

    def __init__(self) -> None:
        self._memory = bytearray()

    def rooms(self, sizes: Sequence[int]) -> list[memoryview]:
        """Rooms of these sizes, which are the caller's until the next call."""
        if len(self._memory) < sum(sizes):
            self._memory = bytearray(sum(sizes))
        view, ends = memoryview(self._memory), list(accumulate(sizes))
        return [view[end - size : end] for size, end in zip(sizes, ends, strict=True)]


class _Pending(NamedTuple):
    written: "Future[None]"
    size: int
    slab: bytearray | None  # to be filled again, or None


class SlabFile:
    """Writes a new file from its beginning, and hashes what it writes.

    behind: a thread of its own writes a slab while the next one is filled, which is quicker where a core is
    free for it. What is at most a slab long in all, every piece in its room, is written by the caller's
    thread, in `finish`. The file stays open until `close`, which ends the other thread.
    """

    def __init__(self, file: BinaryIO, *, behind: bool = False) -> None:
        self._file, self._behind = file, behind
        self._hash, self._written = hashlib.sha256(), 0
        self._writeback = Writeback(file)
        self._before = 0  # bytes in front of this slab
        self._lent: deque[tuple[memoryview, int]] = deque()  # rooms and their places in this slab
        self._pending: deque[_Pending] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._slab = bytearray()
        self._view, self._used = memoryview(self._slab), 0
        self._take_slab(0)

    @property
    def position(self) -> int:
        """Bytes appended so far."""
        return self._before + self._used

    def rooms(self, sizes: Sequence[int], before: int, after: Sequence[int]) -> list[memoryview]:
        """Room for pieces of these sizes, to be filled by the caller; what it does not append is lost.

        The views stay as they are until the next call.

        Args:
            before: bytes that will be appended in front of each piece. after: behind it, a number for each.

        Raises:
            OSError: an earlier slab could not be written.
        """
        self._lent.clear()
        needed = sum(sizes) + before * len(sizes) + sum(after)
        if self._used + needed > len(self._slab):
            self._leave_slab(needed)
        at, views = self._used, []
        for size, gap in zip(sizes, after, strict=True):
            at += before
            view = self._view[at : at + size]
            self._lent.append((view, at))
            views.append(view)
            at += size + gap
        return views

    def append(self, data: bytes | memoryview) -> None:
        """Appends bytes; a room that stands just here is not copied. Rooms come in their order, if at all.

        Raises:
            OSError: an earlier slab could not be written.
        """
        end = self._used + len(data)
        lent = self._lent
        if lent and data is lent[0][0] and self._used == lent[0][1]:
            lent.popleft()
        elif isinstance(data, memoryview) and any(data is view for view, _ in lent):
            self._take_room(data)
            self._view[self._used : end] = data
        elif end <= (lent[0][1] if lent else len(self._slab)):
            self._view[self._used : end] = data
        else:  # not over a room that may be appended yet
            self._append_apart(data)
            return
        self._used = end

    def finish(self) -> str:
        """Writes what is left and ends the thread; the SHA-256 of everything, in hexadecimal.

        Raises:
            OSError: it could not be written.
        """
        while self._pending:
            self._collect()
        self._write(self._view[: self._used])
        self._before, self._used = self.position, 0
        _give_back(self._slab)
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """Ends the thread; slabs that it has not begun are dropped."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def _take_room(self, room: memoryview) -> None:
        """Forgets a room and those before it."""
        while self._lent.popleft()[0] is not room:
            pass

    def _append_apart(self, data: bytes | memoryview) -> None:
        size = len(data)
        self._leave_slab(0)
        if size > _COPIED_BYTES:
            self._submit(memoryview(data), None)
            self._before += size
        else:
            self._view[:size] = data
            self._used = size

    def _leave_slab(self, needed: int) -> None:
        """Hands the slab over to the thread; the next one has room for what is needed."""
        if self._used:
            # With rooms in it that may be read yet, it is not filled again.
            self._submit(self._view[: self._used], None if self._lent else self._slab)
            self._before += self._used
        self._lent.clear()
        self._take_slab(needed)

    def _take_slab(self, needed: int) -> None:
        self._slab = _FREE.pop() if _FREE and needed <= SLAB_BYTES else bytearray(max(needed, SLAB_BYTES))
        self._view, self._used = memoryview(self._slab), 0

    def _submit(self, data: memoryview, slab: bytearray | None) -> None:
        if not self._behind:
            self._write(data)
            _give_back(slab)
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="viewmill-slabs")
        while self._pending and sum(one.size for one in self._pending) + len(data) > _MOST_PENDING:
            self._collect()
        self._pending.append(_Pending(self._thread.submit(self._write, data), len(data), slab))

    def _collect(self) -> None:
        """Waits for the first slab that was handed over, and raises what its writing raised."""
        written, _, slab = self._pending.popleft()
        written.result()
        _give_back(slab)

    def _write(self, data: memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)
        self._written += len(data)
        self._writeback.reaches(self._written)


def _give_back(slab: bytearray | None) -> None:
    if slab is not None and len(slab) == SLAB_BYTES and len(_FREE) < _MOST_FREE:
        _FREE.append(slab)
