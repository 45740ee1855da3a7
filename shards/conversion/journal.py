"""The workspace of an unfinished conversion: a plan, and one record for each shard that is done.

- DATASET/.convert.json: the plan's fingerprint and options. Locked while a conversion runs (the system frees
  the lock of a dead process), and the last file to go.
- DATASET/.convert/000000.tar and .idx, or .beton: a finished shard, until it is published under its name.
- DATASET/.convert/000000.refused: a tar of the bytes that were refused, where they are kept.
- DATASET/.convert/spill/: images of a source that has no byte ranges (parquet), as plain files.
- DATASET/.convert/000000.json: its record, written last: what is stored where, what is quarantined.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.info import KINDS, UNFINISHED

FOLDER = ".convert"
PLAN = UNFINISHED


class SampleRow(NamedTuple):
    """A stored image: its position in the plan's shard, and its columns of the manifest."""

    position: int
    offset: int
    size: int
    ext: str
    width: int
    height: int
    xxh64: int
    transcoded: bool


class Samples(NamedTuple):
    """The columns of `SampleRow`, all of one length."""

    position: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    ext: tuple[str, ...]
    width: tuple[int, ...]
    height: tuple[int, ...]
    xxh64: tuple[int, ...]
    transcoded: tuple[bool, ...]

    @classmethod
    def of_rows(cls, rows: list[SampleRow]) -> "Samples":
        return cls(*(zip(*rows, strict=True) if rows else [()] * len(cls._fields)))


class QuarantinedRow(NamedTuple):
    """An input of the shard that was not written; xxh64 is None where its bytes could not be read."""

    position: int
    reason: str
    xxh64: int | None


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: its bytes and SHA-256, and what became of each of its inputs."""

    bytes: int
    sha256: str
    samples: Samples
    quarantined: tuple[QuarantinedRow, ...]

    @property
    def num_samples(self) -> int:
        return len(self.samples.position)

    def to_json(self) -> str:
        return json.dumps([self.bytes, self.sha256, self.samples, self.quarantined])


def read_record(workspace: Path, number: int) -> ShardRecord | None:
    """The record of a shard, None while it is not done."""
    path = record_path(workspace, number)
    if not path.exists():
        return None
    num_bytes, sha256, samples, quarantined = json.loads(path.read_text())
    return ShardRecord(
        num_bytes,
        sha256,
        Samples(*map(tuple, samples)),
        tuple(QuarantinedRow(*row) for row in quarantined),
    )


def record_path(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.json"


def staged_refused(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.refused"


def spill_folder(workspace: Path) -> Path:
    return workspace / "spill"


def staged_shard(workspace: Path, number: int, kind: str) -> list[Path]:
    """The files of a shard in the order of `info.KINDS`: the shard itself, then its index if it has one."""
    return [workspace / f"{number:06d}{ending}" for ending in KINDS[kind]]


def staged_index(workspace: Path, number: int) -> Path:
    return workspace / f"{number:06d}.idx"
