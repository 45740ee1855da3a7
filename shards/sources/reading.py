"""An input's bytes, read when its shard is written: as they were in the plan, or not at all."""

import errno
import os
import stat

import xxhash
from viewmill.shards.durable import read_at
from viewmill.shards.sources.inputs import NOT_STATED, Place

# Not the file's fault: these end the conversion instead of filling the quarantine.
_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Unusable(Exception):
    """An input that cannot be had; xxh64: of its bytes, None where they could not be read."""

    def __init__(self, reason: str, xxh64: int | None = None) -> None:
        super().__init__(reason)
        self.xxh64 = xxh64


def read_input(root: str, place: Place) -> bytes:
    """The bytes of an input below `root`, which are what they were when the plan was made.

    Raises:
        Unusable: they cannot be read, are too large, or have changed; OSError: the machine is at fault.
    """
    path = os.path.join(root, place.file)  # noqa: PTH118 - a Path takes as long as the reading
    try:
        # Not blocking: what was a file in the plan may be a pipe by now.
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _read_unchanged(file, place)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise
        raise Unusable(f"unreadable: {error.strerror}") from error


def _read_unchanged(file: int, place: Place) -> bytes:
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    time = place.mtime_ns if place.mtime_ns == NOT_STATED else status.st_mtime_ns
    now, planned = (status.st_size, time), (place.file_size, place.mtime_ns)
    if not stat.S_ISREG(status.st_mode) or now != planned:
        raise Unusable("changed: the file was changed while the conversion ran")
    if place.size > place.limit:
        reason = f"too large: {place.size} bytes, the limit is {place.limit // 10**6} MB"
        raise Unusable(reason, _hash_of(file, place))
    data = read_at(file, place.size, place.offset)
    if len(data) != place.size:
        raise Unusable("changed: the file was changed while the conversion ran")
    if place.xxh64 is not None and xxhash.xxh64_intdigest(data) != place.xxh64:
        raise Unusable("damaged: the bytes are not those of the source's manifest, or of its first reading")
    return data


def _hash_of(file: int, place: Place) -> int:
    digest = xxhash.xxh64()
    at, end = place.offset, place.offset + place.size
    while at < end and (block := os.pread(file, min(end - at, 1 << 20), at)):
        digest.update(block)
        at += len(block)
    return digest.intdigest()
