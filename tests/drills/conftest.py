"""What drills of trainings share: an uninterrupted run, and a disk that is soon full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.drills.job import Whole


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> "Whole":
    """26 pictures in three shards and more, and six steps of two ranks on them."""
    # Here, for other drills need no DeepSpeed.
    from tests.drills.job import Job, Whole, drill_config, result_of, shards

    folder = tmp_path_factory.mktemp("faults")
    data = shards(folder, count=26)
    ended = Job(drill_config(), data, folder / "run").end()
    assert ended.codes == [0, 0], ended.told
    return Whole(data, folder / "run", result_of(folder / "run"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, of 64 MiB."""
    from tests.drills.job import mount_small_disk

    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount_small_disk(folder):
        pytest.skip("mounting a small file system is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
