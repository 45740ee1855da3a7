"""Local shards: what is read, and what the system is told before."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from viewmill.shards.storage.shard_files import Range, ShardFiles

NEAR = [Range(0, 100, 50), Range(0, 160, 40), Range(0, 200, 10)]  # gaps of 10 and 0 bytes
FAR = Range(0, 60_000, 500)
OTHER = Range(1, 130, 30)


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[ShardFiles]:
    for name, first in (("a", 0), ("b", 7)):
        (tmp_path / name).write_bytes(bytes((first + at * at) % 251 for at in range(70_000)))
    files = ShardFiles(tmp_path, ["a", "b"])
    yield files
    files.close()


def test_ranges_come_in_the_order_asked_for_also_twice(shards: ShardFiles) -> None:
    wanted = [NEAR[2], FAR, NEAR[0], OTHER, NEAR[2], NEAR[1]]
    first = {0: 0, 1: 7}
    assert list(shards.read(wanted)) == [
        bytes((first[shard] + at * at) % 251 for at in range(offset, offset + size))
        for shard, offset, size in wanted
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no posix_fadvise")
def test_the_system_hears_of_all_ranges_before_the_first_read_and_of_neighbours_as_one(
    shards: ShardFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, size, what: told.append((begin, size)))
    next(shards.read([FAR, NEAR[1], OTHER, NEAR[0], NEAR[2]]))
    assert told == [(100, 110), (60_000, 500), (130, 30)]
