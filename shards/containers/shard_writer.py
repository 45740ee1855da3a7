"""What a conversion needs of a container, the same of each kind: samples in, offsets and a summary out."""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple, Protocol

from viewmill.shards.containers.beton import BetonWriter
from viewmill.shards.containers.slabs import Scratch
from viewmill.shards.containers.tar import TarWriter, index_text


class Stored(NamedTuple):
    """The bytes of a sample and its columns of the manifest; transcoded: they are not the input's own.

    ext: of the bytes. width, height: upright, pixels. xxh64: of the bytes.
    """

    data: bytes | memoryview
    ext: str
    width: int
    height: int
    xxh64: int
    transcoded: bool


class Summary(NamedTuple):
    """A finished shard: its bytes, their SHA-256, and the content of its index where its kind has one."""

    bytes: int
    sha256: str
    index_text: str | None


class ShardWriter(Protocol):
    """Writes a shard from its first to its last sample; the same samples give the same bytes."""

    def rooms(self, sizes: Sequence[int]) -> list[memoryview]:
        """Rooms for the next inputs to be read into, which are the caller's until the next call.

        Those that `add` gets, in their order, need not be copied into a tar.
        """

    def add(self, key: str, label: int, image: Stored) -> int:
        """Appends a sample, label being its class number; returns the offset of the image's first byte."""

    def finish(self) -> Summary:
        """Ends the shard; the file itself is the caller's to flush and close."""

    def close(self) -> None:
        """Lets go of the file, whether the shard is finished or not; always called before it is closed."""


class _TarShard:
    """WebDataset: KEY.EXT and KEY.cls."""

    def __init__(self, file: BinaryIO, behind: bool) -> None:
        self._tar = TarWriter(file, behind=behind)
        self.rooms, self.close = self._tar.rooms, self._tar.close

    def add(self, key: str, label: int, image: Stored) -> int:
        offset = self._tar.add(f"{key}.{image.ext}", image.data)
        self._tar.add(f"{key}.cls", b"%d" % label)
        return offset

    def finish(self) -> Summary:
        summary = self._tar.finish()
        return Summary(summary.bytes, summary.sha256, index_text(summary.rows))


class _BetonShard:
    """FFCV: an image and a label; keys are in the manifest alone."""

    def __init__(self, file: BinaryIO, capacity: int) -> None:
        self._beton = BetonWriter(file, capacity)
        self.rooms = Scratch().rooms

    def add(self, key: str, label: int, image: Stored) -> int:
        return self._beton.add(image.data, width=image.width, height=image.height, label=label)

    def finish(self) -> Summary:
        summary = self._beton.finish()
        return Summary(summary.bytes, summary.sha256, None)

    def close(self) -> None:
        """Nothing to do: all is written at once."""


def shard_writer(kind: str, file: BinaryIO, capacity: int, *, behind: bool) -> ShardWriter:
    """The writer of a data set's kind, on a new file that can be read too.

    capacity: most samples to come. behind: a tar is hashed and written by a thread of its own.
    """
    return _BetonShard(file, capacity) if kind == "ffcv" else _TarShard(file, behind)
