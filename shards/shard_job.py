"""One shard, written by one worker: inputs read, checked, stored or refused; the tar, index and record."""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xxhash
from viewmill.shards.durable import read_at, written_whole
from viewmill.shards.errors import ImageError
from viewmill.shards.images import MAX_BYTES, check_decodes, decode_rgb, encode_png, probe
from viewmill.shards.journal import (
    QuarantinedRow,
    SampleRow,
    ShardRecord,
    record_path,
    staged_index,
    staged_refused,
    staged_tar,
)
from viewmill.shards.plan import Options, PlannedImage
from viewmill.shards.raw import picture
from viewmill.shards.resize import Resize
from viewmill.shards.sources.inputs import ENCODED, NOT_STATED, Place
from viewmill.shards.tar import TarWriter, index_text

# Told after each input: source bytes, and whether it was quarantined. May raise to stop the shard.
Tell = Callable[[int, bool], None]
# Not the file's fault: these end the conversion instead of filling the quarantine.
_MACHINE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs: all of it plain values, so that a spawned process can have it."""

    number: int
    source: str
    workspace: str
    options: Options
    images: tuple[PlannedImage, ...]


class _Refused(Exception):
    """An input that is not written, with its row for the quarantine."""

    def __init__(self, reason: str, xxh64: int | None, data: bytes | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.xxh64 = xxh64
        self.data = data  # None where it could not be read, or is too large to be kept


class _Stored(NamedTuple):
    data: bytes
    ext: str
    width: int
    height: int
    xxh64: int
    transcoded: bool


def write_shard(job: ShardJob, tell: Tell) -> None:
    """Writes a shard, its DALI index and, last, the record that says it is done; each is whole or absent."""
    workspace = Path(job.workspace)
    samples: list[SampleRow] = []
    quarantined: list[QuarantinedRow] = []
    refused_bytes: list[tuple[str, bytes]] = []
    with written_whole(staged_tar(workspace, job.number)) as file:
        tar = TarWriter(file)
        for position, image in enumerate(job.images):
            try:
                samples.append(_add(tar, position, image, _converted(job, image)))
            except _Refused as refused:
                quarantined.append(QuarantinedRow(position, refused.reason, refused.xxh64))
                if job.options.quarantine_bytes and refused.data is not None:
                    refused_bytes.append((f"{image.key}.bytes", refused.data))
            tell(image.size, bool(quarantined) and quarantined[-1].position == position)
        summary = tar.finish()
    with written_whole(staged_index(workspace, job.number)) as file:
        file.write(index_text(summary.members).encode())
    if refused_bytes:
        _keep(staged_refused(workspace, job.number), refused_bytes)
    record = ShardRecord(summary.bytes, summary.sha256, tuple(samples), tuple(quarantined))
    with written_whole(record_path(workspace, job.number)) as file:
        file.write(record.to_json().encode())


def _keep(path: Path, refused: list[tuple[str, bytes]]) -> None:
    """Writes what was refused into a tar of its own, for people to look at."""
    with written_whole(path) as file:
        tar = TarWriter(file)
        for name, data in refused:
            tar.add(name, data)
        tar.finish()


def _add(tar: TarWriter, position: int, image: PlannedImage, stored: _Stored) -> SampleRow:
    offset = tar.add(f"{image.key}.{stored.ext}", stored.data)
    tar.add(f"{image.key}.cls", str(image.label).encode())
    size = len(stored.data)
    return SampleRow(
        position, offset, size, stored.ext, stored.width, stored.height, stored.xxh64, stored.transcoded
    )


def _converted(job: ShardJob, image: PlannedImage) -> _Stored:
    """The bytes to store, by the table of images.py.

    Raises:
        _Refused: the input is quarantined.
    """
    path = os.path.join(job.source, image.place.file)  # noqa: PTH118 - a Path takes as long as the reading
    data = _read(path, image.place)
    try:
        if image.place.form != ENCODED:
            data = encode_png(picture(data, image.place.form))
            return _stored(data, job.options)._replace(transcoded=True)
        return _stored(data, job.options)
    except ImageError as error:
        raise _Refused(str(error), xxhash.xxh64_intdigest(data), data) from error


def _stored(data: bytes, options: Options) -> _Stored:
    info = probe(data)
    resize = Resize.parse(options.resize, options.quality)
    width, height = info.width, info.height
    kept = info.keep
    if resize is not None and resize.shrinks(width, height):
        smaller = resize.apply(decode_rgb(data))
        height, width = smaller.shape[:2]
        ext, data = resize.encode(smaller, info.format)
        kept = False
    elif not kept:
        ext, data = "png", encode_png(decode_rgb(data))
    else:
        ext = info.ext
        if options.check == "decode":
            check_decodes(data)
    if len(data) > MAX_BYTES:
        raise ImageError(
            f"too large: {len(data)} bytes as lossless PNG, the limit is {MAX_BYTES // 10**6} MB"
        )
    return _Stored(data, ext, width, height, xxhash.xxh64_intdigest(data), not kept)


def _read(path: str, place: Place) -> bytes:
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
        raise _Refused(f"unreadable: {error.strerror}", None) from error


def _read_unchanged(file: int, place: Place) -> bytes:
    status = os.fstat(file)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    time = place.mtime_ns if place.mtime_ns == NOT_STATED else status.st_mtime_ns
    now, planned = (status.st_size, time), (place.file_size, place.mtime_ns)
    if not stat.S_ISREG(status.st_mode) or now != planned:
        raise _Refused("changed: the file was changed while the conversion ran", None)
    if place.size > MAX_BYTES:
        reason = f"too large: {place.size} bytes, the limit is {MAX_BYTES // 10**6} MB"
        raise _Refused(reason, _hash_of(file, place))
    data = read_at(file, place.size, place.offset)
    if len(data) != place.size:
        raise _Refused("changed: the file was changed while the conversion ran", None)
    if place.xxh64 is not None and xxhash.xxh64_intdigest(data) != place.xxh64:
        raise _Refused(
            "damaged: the bytes are not those of the source's manifest, or of its first reading", None
        )
    return data


def _hash_of(file: int, place: Place) -> int:
    digest = xxhash.xxh64()
    at, end = place.offset, place.offset + place.size
    while at < end and (block := os.pread(file, min(end - at, 1 << 20), at)):
        digest.update(block)
        at += len(block)
    return digest.intdigest()
