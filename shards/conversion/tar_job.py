"""One existing tar, indexed by one worker: its images checked and hashed, not one byte of it written."""

from dataclasses import dataclass
from pathlib import Path

from viewmill.shards.containers.slabs import Scratch
from viewmill.shards.containers.tar import index_bytes
from viewmill.shards.conversion.journal import (
    QuarantinedRow,
    SampleRow,
    Samples,
    ShardRecord,
    record_path,
    staged_index,
)
from viewmill.shards.conversion.planned_image import PlannedImage
from viewmill.shards.conversion.shard_job import Tell
from viewmill.shards.durable import sha256_of, written_whole
from viewmill.shards.errors import ConvertError, ImageError
from viewmill.shards.images import EXTENSIONS, check_decodes, probe
from viewmill.shards.sources.reading import Read, Unusable, read_inputs
from viewmill.shards.sources.tars import members_of_tar
from viewmill.shards.storage.local import LocalTree


@dataclass(frozen=True)
class TarJob:
    """What a worker needs: a tar, and its images in the members' order."""

    number: int
    tar: str
    workspace: str
    check: str
    images: tuple[PlannedImage, ...]

    @property
    def local_paths(self) -> tuple[str, ...]:
        """Files and folders that whoever does it has to see."""
        return self.tar, self.workspace


def index_tar(job: TarJob, tell: Tell) -> None:
    """Checks the images of a tar, writes its DALI index and, last, the record; each is whole or absent.

    Raises:
        ConvertError: the tar was changed since the plan was made.
    """
    path, workspace = Path(job.tar), Path(job.workspace)
    begun = _state_of(path)
    samples: list[SampleRow] = []
    quarantined: list[QuarantinedRow] = []
    if any((image.place.file_size, image.place.stamp) != begun for image in job.images):
        raise _changed(path)
    tree, places = LocalTree(str(path.parent)), [image.place for image in job.images]
    reads = read_inputs(tree, places, Scratch().rooms)
    for position, (image, read) in enumerate(zip(job.images, reads, strict=True)):
        row = _checked(job, position, image, read)
        samples.append(row) if isinstance(row, SampleRow) else quarantined.append(row)
        tell(image.size, isinstance(row, QuarantinedRow))
    index = index_bytes(members_of_tar(path))
    record = ShardRecord(begun[0], sha256_of(path), Samples.of_rows(samples), tuple(quarantined))
    if _state_of(path) != begun:  # what was read before is not what was hashed
        raise _changed(path)
    with written_whole(staged_index(workspace, job.number)) as file:
        file.write(index)
    with written_whole(record_path(workspace, job.number)) as file:
        file.write(record.to_json().encode())


def _checked(
    job: TarJob, position: int, image: PlannedImage, read: Read | Exception
) -> SampleRow | QuarantinedRow:
    if isinstance(read, Unusable):
        return QuarantinedRow(position, str(read), read.xxh64)
    if isinstance(read, Exception):
        raise read
    data, xxh64 = read
    try:
        info = probe(data)
        if not info.keep:
            return QuarantinedRow(position, _not_kept(info.format), xxh64)
        if job.check == "decode":
            check_decodes(bytes(data))
    except ImageError as error:
        return QuarantinedRow(position, str(error), xxh64)
    place = image.place
    return SampleRow(
        position, place.offset, place.size, info.ext, info.width, info.height, xxh64, transcoded=False
    )


def _not_kept(name: str) -> str:
    """Why an image that decodes cannot stay as it is, by the table of images.py."""
    unlike = (
        "" if name not in EXTENSIONS else " of this kind (not plain, upright and still 8-bit grey or RGB)"
    )
    return (
        f"needs re-encoding: a {name}{unlike} is stored as PNG; "
        "convert the tars without --in-place (--from tar) to have it"
    )


def _state_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _changed(path: Path) -> ConvertError:
    return ConvertError(
        f"{path}: was changed while it was indexed; let it rest and run the same command again"
    )
