"""What a conversion needs of a container, the same of each kind: samples in, offsets and a summary out."""

from typing import BinaryIO, NamedTuple, Protocol

from viewmill.shards.containers.beton import BetonWriter
from viewmill.shards.containers.tar import TarWriter, index_text


class Sample(NamedTuple):
    """An image to be stored: its key, class number, bytes and their extension, upright size in pixels."""

    key: str
    label: int
    ext: str
    data: bytes
    width: int
    height: int


class Summary(NamedTuple):
    """A finished shard: its bytes, their SHA-256, and the content of its index where its kind has one."""

    bytes: int
    sha256: str
    index_text: str | None


class ShardWriter(Protocol):
    """Writes a shard from its first to its last sample; the same samples give the same bytes."""

    def add(self, sample: Sample) -> int:
        """Appends a sample and returns the offset of the image's first byte."""

    def finish(self) -> Summary:
        """Ends the shard; the file itself is the caller's to flush and close."""


class _TarShard:
    """WebDataset: KEY.EXT and KEY.cls."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = TarWriter(file)

    def add(self, sample: Sample) -> int:
        offset = self._tar.add(f"{sample.key}.{sample.ext}", sample.data)
        self._tar.add(f"{sample.key}.cls", str(sample.label).encode())
        return offset

    def finish(self) -> Summary:
        summary = self._tar.finish()
        return Summary(summary.bytes, summary.sha256, index_text(summary.members))


class _BetonShard:
    """FFCV: an image and a label; keys are in the manifest alone."""

    def __init__(self, file: BinaryIO, capacity: int) -> None:
        self._beton = BetonWriter(file, capacity)

    def add(self, sample: Sample) -> int:
        return self._beton.add(sample.data, width=sample.width, height=sample.height, label=sample.label)

    def finish(self) -> Summary:
        summary = self._beton.finish()
        return Summary(summary.bytes, summary.sha256, None)


def shard_writer(kind: str, file: BinaryIO, capacity: int) -> ShardWriter:
    """The writer of a data set's kind, on a new file that can be read too; capacity: most samples to come."""
    return _BetonShard(file, capacity) if kind == "ffcv" else _TarShard(file)
