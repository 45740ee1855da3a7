"""One shard, written by one worker: inputs read, checked, stored or refused; the tar, index and record."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import xxhash
from viewmill.shards.containers.tar import TarWriter, index_text
from viewmill.shards.conversion.journal import (
    QuarantinedRow,
    SampleRow,
    ShardRecord,
    record_path,
    staged_index,
    staged_refused,
    staged_tar,
)
from viewmill.shards.conversion.plan import Options, PlannedImage
from viewmill.shards.conversion.resize import Resize
from viewmill.shards.durable import written_whole
from viewmill.shards.errors import ImageError
from viewmill.shards.images import MAX_BYTES, check_decodes, decode_rgb, encode_png, probe
from viewmill.shards.raw import picture
from viewmill.shards.sources.inputs import ENCODED
from viewmill.shards.sources.reading import Unusable, read_input
from viewmill.shards.storage.read_ahead import Planned, reading_ahead
from viewmill.shards.storage.tree import Readable

# Told after each input: source bytes, and whether it was quarantined. May raise to stop the shard.
Tell = Callable[[int, bool], None]


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs: all of it plain values, so that a spawned process can have it."""

    number: int
    tree: Readable
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
    places = (image.place for image in job.images if image.size <= MAX_BYTES)  # larger ones are only hashed
    planned = (Planned(place.file, place.offset, place.size, place.state) for place in places)
    with reading_ahead(job.tree, planned) as tree:
        _write_shard(replace(job, tree=tree), tell)


def _write_shard(job: ShardJob, tell: Tell) -> None:
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
    try:
        data = read_input(job.tree, image.place)
    except Unusable as unusable:
        raise _Refused(str(unusable), unusable.xxh64) from unusable
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
