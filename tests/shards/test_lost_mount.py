"""Where no shard can be read, no sample is to blame."""

import errno
from pathlib import Path
from typing import Any

import pytest
from viewmill.shards.errors import ShardError, StorageError
from viewmill.shards.storage import shard_files
from viewmill.shards.storage.shard_files import Range, ShardFiles

NAMES = ("a.tar", "b.tar")
ALL = [Range(shard, 0, 4) for shard in range(len(NAMES))]


@pytest.fixture
def shards(tmp_path: Path) -> ShardFiles:
    for name in NAMES:
        (tmp_path / name).write_bytes(b"data")
    return ShardFiles(tmp_path, NAMES)


def fail_to_read(number: int) -> Any:
    def read_at(file: int, size: int, offset: int) -> bytes:
        raise OSError(number, "it fails")

    return read_at


def test_one_shard_that_is_gone_is_named(shards: ShardFiles, tmp_path: Path) -> None:
    (tmp_path / "b.tar").unlink()
    with pytest.raises(ShardError, match=r"b\.tar: the shard is gone; put it back"):
        list(shards.read(ALL))


def test_shards_that_are_all_gone_are_a_lost_mount(shards: ShardFiles, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).unlink()
    with pytest.raises(StorageError, match=r"none of its 2 shards can be read \(No such file"):
        list(shards.read(ALL))


def test_a_disk_that_fails_in_one_shard_names_the_shard(
    shards: ShardFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_files, "read_at", fail_to_read(errno.EIO))
    with pytest.raises(OSError, match=r"it fails: '.*a\.tar'"):
        list(shards.read(ALL))


def test_a_mount_that_has_gone_stale_is_told_though_its_files_are_open(
    shards: ShardFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(shards.read(ALL))  # they are open from here on
    for name in NAMES:
        (tmp_path / name).unlink()
    assert list(shards.read(ALL)) == [b"data", b"data"]  # of a deleted file that is open nothing is lost
    monkeypatch.setattr(shard_files, "read_at", fail_to_read(errno.ESTALE))
    with pytest.raises(StorageError, match="the mount is lost"):
        list(shards.read(ALL))
