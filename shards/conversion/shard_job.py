"""One shard, written by one worker: inputs read, checked, stored or refused; the shard, index and record."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from viewmill.shards.containers.shard_writer import ShardWriter, Stored, shard_writer
from viewmill.shards.containers.tar import TarWriter
from viewmill.shards.conversion.journal import (
    QuarantinedRow,
    SampleRow,
    Samples,
    ShardRecord,
    record_path,
    staged_refused,
    staged_shard,
)
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.planned_image import PlannedImage
from viewmill.shards.conversion.stored import to_store
from viewmill.shards.durable import written_whole
from viewmill.shards.errors import ImageError
from viewmill.shards.sources.reading import Read, Unusable, read_inputs
from viewmill.shards.storage.local import LocalTree
from viewmill.shards.storage.read_ahead import Planned, reading_ahead
from viewmill.shards.storage.tree import Readable

# Told after each input: source bytes, and whether it was quarantined. May raise to stop the shard.
Tell = Callable[[int, bool], None]


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs: all of it plain values, so that another process can have it.

    alone: no other shard is written meanwhile, so that a core is free for a second thread.
    """

    number: int
    tree: Readable
    workspace: str
    options: Options
    images: tuple[PlannedImage, ...]
    alone: bool = False

    @property
    def local_paths(self) -> tuple[str, ...]:
        """Files and folders that whoever does it has to see; a remote source answers for itself."""
        return (self.workspace, self.tree.root) if isinstance(self.tree, LocalTree) else (self.workspace,)


class _Refused(Exception):
    """An input that is not written, with its row for the quarantine."""

    def __init__(self, reason: str, xxh64: int | None, data: bytes | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.xxh64 = xxh64
        self.data = data  # None where it could not be read, or is too large to be kept


def write_shard(job: ShardJob, tell: Tell) -> None:
    """Writes a shard, its index and, last, the record that says it is done; each is whole or absent."""
    places = (image.place for image in job.images if image.size <= image.place.limit)  # others: only hashed
    planned = (Planned(place.file, place.offset, place.size, place.state) for place in places)
    with reading_ahead(job.tree, planned) as tree:
        _write_shard(replace(job, tree=tree), tell)


def _write_shard(job: ShardJob, tell: Tell) -> None:
    workspace = Path(job.workspace)
    samples: list[SampleRow] = []
    quarantined: list[QuarantinedRow] = []
    refused_bytes: list[tuple[str, bytes]] = []
    shard, *index = staged_shard(workspace, job.number, job.options.format)
    # The record's sync of the folder is theirs too: a shard or an index that is not there beside its record
    # is written again.
    with (
        written_whole(shard, sync_its_folder=False) as file,
        closing(_writer_of(job, file)) as writer,
    ):
        reads = read_inputs(job.tree, [image.place for image in job.images], writer.rooms)
        for position, (image, read) in enumerate(zip(job.images, reads, strict=True)):
            try:
                samples.append(_add(writer, position, image, _converted(job, image, read)))
            except _Refused as refused:
                quarantined.append(QuarantinedRow(position, refused.reason, refused.xxh64))
                if job.options.quarantine_bytes and refused.data is not None:
                    refused_bytes.append((f"{image.key}.bytes", refused.data))
            tell(image.size, bool(quarantined) and quarantined[-1].position == position)
        summary = writer.finish()
    if summary.index_text is not None:
        with written_whole(index[0], sync_its_folder=False) as file:
            file.write(summary.index_text.encode())
    if refused_bytes:
        _keep(staged_refused(workspace, job.number), refused_bytes)
    record = ShardRecord(summary.bytes, summary.sha256, Samples.of_rows(samples), tuple(quarantined))
    with written_whole(record_path(workspace, job.number)) as file:
        file.write(record.to_json().encode())


def _writer_of(job: ShardJob, file: BinaryIO) -> ShardWriter:
    return shard_writer(job.options.format, file, capacity=len(job.images), behind=job.alone)


def _keep(path: Path, refused: list[tuple[str, bytes]]) -> None:
    """Writes what was refused into a tar of its own, for people to look at."""
    with written_whole(path) as file, closing(TarWriter(file)) as tar:
        for name, data in refused:
            tar.add(name, data)
        tar.finish()


def _add(writer: ShardWriter, position: int, image: PlannedImage, stored: Stored) -> SampleRow:
    offset = writer.add(image.key, image.label, stored)
    data, ext, width, height, xxh64, transcoded = stored
    return SampleRow(position, offset, len(data), ext, width, height, xxh64, transcoded)


def _converted(job: ShardJob, image: PlannedImage, read: Read | Exception) -> Stored:
    """The bytes to store of an input: those that were read, or others.

    Raises:
        _Refused: the input is quarantined; as `read_inputs`, where the fault is not the input's.
    """
    if isinstance(read, Unusable):
        raise _Refused(str(read), read.xxh64) from read
    if isinstance(read, Exception):
        raise read
    try:
        return to_store(read, image.place.form, job.options)
    except ImageError as error:
        raise _Refused(str(error), read.xxh64, bytes(read.data)) from error
