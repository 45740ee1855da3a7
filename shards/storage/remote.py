"""A prefix of URLs as a tree, read by ranges through fsspec; what fails for a moment is asked for again."""

import asyncio
import errno
import io
import os
import time
from collections.abc import Callable, Coroutine
from datetime import datetime, timezone
from typing import Any, BinaryIO, TypeVar, cast

from viewmill.shards.errors import ConvertError, StorageError
from viewmill.shards.storage.counts import Counts
from viewmill.shards.storage.retry import PATIENCE, Incomplete, Patience, persistently
from viewmill.shards.storage.tree import Changed, File, FileState, NoRegularFile
from viewmill.shards.storage.urls import filesystem_of, is_http, protocol_of
from viewmill.shards.storage.web import web_range

T = TypeVar("T")
# What is read ahead where a file is read through: several headers of a tar, yet not its images.
_WINDOW = 256 << 10
_LISTING_S = 3600.0  # a thousand names a request: a large listing takes long, and each request has a limit
# How long the state of a file that many ranges are read from is believed: else each costs two requests.
_BELIEVED_S = 10.0
_STAMPS = ("ETag", "etag", "generation", "LastModified", "last_modified", "Last-Modified", "mtime", "created")
_GONE = (404, 410)


class RemoteTree:
    """The files whose URLs begin with `base`; with an empty base each file is a URL of its own.

    Raises:
        ValueError: a URL that is not read; ImportError: its library is missing, the extra is named.
    """

    waits = True

    def __init__(self, base: str, patience: Patience | None = None) -> None:
        self.base = base.rstrip("/")
        self.patience = patience or PATIENCE
        self.counts = Counts()
        self._states: dict[str, tuple[float, FileState]] = {}
        self._filesystems: dict[str, Any] = {}
        if self.base:
            self._filesystem(self.base)

    def __reduce__(self) -> tuple[type["RemoteTree"], tuple[str, Patience]]:
        if "memory" in self._filesystems:
            raise ConvertError("memory:// is seen by one process alone; give one worker")
        return RemoteTree, (self.base, self.patience)

    def shown(self, file: str) -> str:
        url = self._url(file)
        return url.partition("?")[0] if is_http(url) else url  # a query may be a signature

    def state(self, file: str) -> FileState:
        info = self._ask(file, "info")
        if info.get("type") == "directory":
            raise NoRegularFile(errno.EISDIR, "a folder", self.shown(file))
        if info.get("size") is None:
            raise OSError(errno.EINVAL, "the server does not state its size", self.shown(file))
        return FileState(int(info["size"]), _stamp_of(info))

    def read(self, file: str, offset: int, size: int, planned: FileState) -> bytes:
        """As `Tree.read`; of a file read in parts, a change is noticed within some seconds."""
        try:
            data = self.range(file, offset, size)
        except StorageError:
            if self.state(file) != planned:  # it became shorter, so that the range is no longer there
                raise Changed from None
            raise
        whole = size == planned.size
        # Asked after the bytes came: what is found unchanged now was not changed before.
        if self._state_lately(file, at_once=whole) != planned:
            raise Changed
        return data

    def read_into(self, file: str, offset: int, room: memoryview, planned: FileState) -> None:
        room[:] = self.read(file, offset, len(room), planned)

    def range(self, file: str, offset: int, size: int) -> bytes:
        """Exactly `size` bytes from `offset`.

        Raises:
            FileNotFoundError: no such file; StorageError: the store refuses, or does not give these bytes.
        """
        if size == 0:
            return b""

        url, limit_s = self._url(file), self.patience.limit_s(size)

        def attempt() -> bytes:
            data: bytes
            if is_http(url):
                filesystem = self._filesystem(url)
                data = _awaited(filesystem, web_range(filesystem, url, offset, size), limit_s)
            else:
                data = self._call(file, "cat_file", limit_s, start=offset, end=offset + size)
            if len(data) != size:
                raise Incomplete(f"{len(data)} bytes came of {size} from byte {offset}")
            return data

        data = self._persistently(file, attempt)
        self.counts.add(requests=1, bytes_fetched=size)
        return data

    def peek(self, file: str, offset: int, size: int) -> bytes:
        return self.range(file, offset, size)

    def open(self, file: str) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(_Ranges(self, file, self.state(file).size), _WINDOW))

    def files(self) -> list[File]:
        """As `Tree.files`: one recursive listing, whatever the folders.

        Raises:
            ConvertError: the store has no listings; FileNotFoundError, StorageError: as `range`.
        """
        self._refuse_unlisted()
        listed: dict[str, dict[str, Any]] = self._ask("", "find", _LISTING_S, detail=True)
        above = self._path("").strip("/") + "/"
        return [
            File(name.lstrip("/").removeprefix(above), FileState(int(info["size"]), _stamp_of(info)))
            for name, info in listed.items()
        ]

    def is_there(self) -> bool:
        """True: a store that says of a file that it is gone has answered."""
        return True

    def names(self) -> set[str]:
        self._refuse_unlisted()
        listed = self._ask("", "ls", _LISTING_S, detail=False)
        return {str(name).rstrip("/").rpartition("/")[2] for name in listed}

    def _refuse_unlisted(self) -> None:
        if is_http(self.base):
            raise ConvertError(
                f"{self.base}: web servers list no folders; give a tar, parquet, or a table of URLs"
            )

    def _state_lately(self, file: str, *, at_once: bool) -> FileState:
        now = time.monotonic()
        asked, state = self._states.get(file, (now - 2 * _BELIEVED_S, FileState(0, 0)))
        if at_once or now - asked > _BELIEVED_S:
            state = self.state(file)
        if not at_once:  # a folder's files are read once each: to remember them all would be a leak
            self._states[file] = (now, state) if now - asked > _BELIEVED_S else (asked, state)
        return state

    def _ask(self, file: str, method: str, limit_s: float | None = None, **options: Any) -> Any:
        limit_s = self.patience.limit_s(0) if limit_s is None else limit_s
        return self._persistently(file, lambda: self._call(file, method, limit_s, **options))

    def _persistently(self, file: str, attempt: Callable[[], T]) -> T:
        shown = self.shown(file) if file else self.base
        try:
            return persistently(shown, attempt, self.patience, lambda: self.counts.add(retries=1))
        except FileNotFoundError as error:
            # Some libraries leave out the number and the text that the system gives with it.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), shown) from error

    def _call(self, file: str, method: str, limit_s: float, **options: Any) -> Any:
        """One call of fsspec, ended after `limit_s` seconds where its library works asynchronously."""
        filesystem, path = self._filesystem(self._url(file)), self._path(file)
        try:
            if not filesystem.async_impl:
                return getattr(filesystem, method)(path, **options)
            return _awaited(filesystem, getattr(filesystem, f"_{method}")(path, **options), limit_s)
        except FileNotFoundError as error:
            cause = error.__cause__
            # fsspec's web file system calls every failure of a HEAD a missing file.
            is_gone = not is_http(self._url(file)) or getattr(cause, "status", None) in _GONE
            if is_gone or not isinstance(cause, Exception):
                raise
            raise cause from None

    def _filesystem(self, url: str) -> Any:
        protocol = protocol_of(url)
        if protocol not in self._filesystems:
            self._filesystems[protocol] = filesystem_of(url)
        return self._filesystems[protocol]

    def _path(self, file: str) -> str:
        url = self._url(file)
        return str(self._filesystem(url)._strip_protocol(url))

    def _url(self, file: str) -> str:
        if not self.base:
            return file
        if not file:
            return self.base
        return f"{self.base}/{file.replace('#', '%23') if is_http(self.base) else file}"


def _awaited(filesystem: Any, call: Coroutine[Any, Any, T], limit_s: float) -> T:
    """What a call of an asynchronous file system gives, in its thread, within `limit_s` seconds."""
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(call, limit_s), filesystem.loop).result()


class _Ranges(io.RawIOBase):
    """A remote file's bytes, a range for each read; a BufferedReader around it reads ahead."""

    def __init__(self, tree: RemoteTree, file: str, size: int) -> None:
        self._tree, self._file, self._size = tree, file, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), max(0, self._size - self._at))
        buffer[:size] = self._tree.range(self._file, self._at, size)
        self._at += size
        return size


def _stamp_of(info: dict[str, Any]) -> str:
    """The first stamp that the store states, the same text however it was asked."""
    found = next((info[name] for name in _STAMPS if info.get(name)), "")
    # A listing may give a time as a number, or with parts of a second that a single request leaves out.
    if isinstance(found, (int, float)):
        found = datetime.fromtimestamp(found, timezone.utc)
    if isinstance(found, datetime):
        return found.astimezone(timezone.utc).isoformat(timespec="seconds")
    return str(found).removeprefix("W/").strip('"')
