"""Conversions killed at random moments or any system call, or on a full disk: run again, the same bytes."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from viewmill.shards.conversion.journal import PLAN
from viewmill.shards.convert import convert

from tests.drills.tracing import ROOT, recorded_calls, run_with_fault
from tests.shards.pictures import SHARED_DATA, encoded, noise, tree_hashes

PROGRAM = """
import sys
from pathlib import Path
from viewmill.shards.convert import convert

if __name__ == "__main__":
    source, dataset, workers, shard_bytes, limit = sys.argv[1:]
    numbers = {"workers": int(workers), "shard_bytes": int(shard_bytes), "limit": int(limit) or None}
    convert(Path(source), Path(dataset), **numbers)
"""
# What changes files, and the openings between them.
CALLS = (
    "openat", "write", "pwrite64", "fsync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "truncate",
    "ftruncate", "flock", "close",
)  # fmt: skip


class Job(NamedTuple):
    """What is converted, and how."""

    source: Path
    shard_bytes: int
    limit: int | None = None


class Whole(NamedTuple):
    """An uninterrupted conversion: its job, its files, and how long its two workers took from the plan on."""

    job: Job
    files: dict[str, str]
    working_s: float


@pytest.fixture(scope="module")
def bitmaps(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """50 small bitmaps, some milliseconds of work each, and some files that are no image."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "source").mkdir()
    for number in range(50):
        side = int(np.random.default_rng((14, number)).integers(30, 220))
        (folder / "source" / f"{number}.bmp").write_bytes(encoded(noise(number, side, 150), "BMP"))
    for number in range(3):
        (folder / "source" / f"{number}.txt").write_text("no image")
    return uninterrupted(Job(folder / "source", 250_000), folder)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """600 photographs out of a tar."""
    tar = SHARED_DATA / "imagenette_train.tar"
    if not tar.exists():
        pytest.skip(f"{tar.name} is not here")
    return uninterrupted(Job(tar, 600_000, limit=600), tmp_path_factory.mktemp("photographs"))


def uninterrupted(job: Job, folder: Path) -> Whole:
    process = start(job, folder / "dataset", folder)
    wait_for_plan(process, folder / "dataset")
    begin = time.monotonic()
    assert process.wait() == 0
    files = tree_hashes(folder / "dataset")
    assert len([name for name in files if name.endswith(".tar")]) >= 3
    return Whole(job, files, time.monotonic() - begin)


def command(job: Job, dataset: Path, folder: Path, workers: int = 2) -> list[str]:
    (folder / "program.py").write_text(PROGRAM)
    words = [job.source, dataset, workers, job.shard_bytes, job.limit or 0]
    return [sys.executable, str(folder / "program.py"), *map(str, words)]


def start(job: Job, dataset: Path, folder: Path) -> psutil.Popen:
    return psutil.Popen(command(job, dataset, folder), stderr=subprocess.DEVNULL, cwd=ROOT)


def killed_once(whole: Whole, dataset: Path, folder: Path, rng: np.random.Generator) -> bool:
    """Starts the conversion, kills the parent or a worker after a random time; False if it was through."""
    process = start(whole.job, dataset, folder)
    wait_for_plan(process, dataset)
    time.sleep(float(rng.random()) * whole.working_s)
    family = [process, *children_of(process)]
    victim = family[rng.integers(len(family))] if rng.random() < 0.5 else process
    victim.kill() if victim.is_running() else None
    code = process.wait(timeout=60)
    assert not psutil.wait_procs(family[1:], timeout=20)[1], "a worker outlived its parent"
    return code != 0


def wait_for_plan(process: psutil.Popen, dataset: Path) -> None:
    while not (dataset / PLAN).exists() and process.poll() is None:
        time.sleep(0.002)


def children_of(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def drill(whole: Whole, folder: Path, seed: int, kills: int) -> None:
    """Conversions that are killed up to three times each and then finished, until so many kills are done."""
    done = trial = 0
    while done < kills:
        rng, dataset = np.random.default_rng((15, seed, trial)), folder / f"dataset{trial}"
        for _ in range(int(rng.integers(1, 4))):
            if not killed_once(whole, dataset, folder, rng):
                break
            done += 1
        finish(whole.job, dataset)
        assert tree_hashes(dataset) == whole.files, f"trial {trial} gave other files"
        shutil.rmtree(dataset)
        trial += 1
        assert trial <= 5 * kills + 5, "nearly no conversion lived long enough to be killed"


def finish(job: Job, dataset: Path) -> None:
    """What a user would do after a crash: the same command again, unless the data set is finished."""
    if not (dataset / "dataset.json").exists() or (dataset / PLAN).exists():
        convert(job.source, dataset, shard_bytes=job.shard_bytes, limit=job.limit)


@pytest.mark.slow
def test_killed_at_random_moments_it_is_finished_with_the_same_bytes(bitmaps: Whole, tmp_path: Path) -> None:
    drill(bitmaps, tmp_path, seed=0, kills=4)  # 200 in the soak


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_two_hundred_times_it_is_finished_with_the_same_bytes(
    photographs: Whole, tmp_path: Path
) -> None:
    drill(photographs, tmp_path, seed=1, kills=200)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Six images of about equal size, for three shards."""
    folder = tmp_path_factory.mktemp("few") / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(noise(number, 20, 20), "PNG"))
    return Job(folder, 7_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_every_system_call_it_is_finished_with_the_same_bytes(few: Job, tmp_path: Path) -> None:
    # One path for all runs, so that their calls are the same; a run before them warms what is cached.
    dataset = tmp_path / "dataset"
    run = command(few, dataset, tmp_path, workers=1)
    for _ in range(2):
        shutil.rmtree(dataset, ignore_errors=True)
        points = recorded_calls(run, tmp_path / "log", CALLS, dataset)
    expected = tree_hashes(dataset)
    assert len([name for name in expected if name.endswith(".tar")]) == 3
    assert len(points) >= 100
    wrong, killed = [], 0
    for name, number in points:
        shutil.rmtree(dataset, ignore_errors=True)
        code = run_with_fault(run, name, number, "signal=KILL").returncode
        killed += code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        finish(few, dataset)
        if tree_hashes(dataset) != expected:
            wrong.append((name, number))
    assert wrong == []
    assert killed >= 0.95 * len(points), f"only {killed} of {len(points)} runs were killed"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(disk: Path, kibibytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_on_a_full_disk_it_ends_with_one_line_and_goes_on_with_room(
    few: Job, small_disk: Path, tmp_path: Path, workers: int
) -> None:
    convert(few.source, tmp_path / "whole", shard_bytes=few.shard_bytes)
    expected = tree_hashes(tmp_path / "whole")
    dataset, failures = small_disk / "dataset", 0
    # From no room at all, a page more each time: it fails at every kind of file, and takes up what is there.
    for kibibytes in range(4, 200, 4 if workers == 1 else 16):
        resize(small_disk, kibibytes)
        message = message_of_failure(few, dataset, workers)
        if message is None:
            break
        assert "No space left on device" in message
        assert "run the same command again" in message
        assert "\n" not in message
        failures += 1
    assert failures >= 3
    assert tree_hashes(dataset) == expected


def message_of_failure(job: Job, dataset: Path, workers: int) -> str | None:
    try:
        convert(job.source, dataset, workers=workers, shard_bytes=job.shard_bytes)
    except RuntimeError as error:
        return str(error)
    return None
