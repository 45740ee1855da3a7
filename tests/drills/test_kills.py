"""Conversions killed at random moments or any system call, or on a full disk: run again, the same bytes."""

import os
import re
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

from tests.shards.pictures import encoded, noise, tree_hashes

ROOT = Path(__file__).resolve().parents[2]
SHARD_BYTES = 250_000
PROGRAM = """
import sys
from pathlib import Path
from viewmill.shards.convert import convert

if __name__ == "__main__":
    source, dataset, workers, shard_bytes = sys.argv[1:]
    convert(Path(source), Path(dataset), workers=int(workers), shard_bytes=int(shard_bytes))
"""
# What changes files, and the openings between them.
CALLS = (
    "openat", "write", "pwrite64", "fsync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "truncate",
    "ftruncate", "flock", "close",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 small bitmaps, some milliseconds of work each, and some files that are no image."""
    folder = tmp_path_factory.mktemp("kills") / "source"
    folder.mkdir()
    for number in range(50):
        side = int(np.random.default_rng((14, number)).integers(30, 220))
        (folder / f"{number}.bmp").write_bytes(encoded(noise(number, side, 150), "BMP"))
    for number in range(3):
        (folder / f"{number}.txt").write_text("no image")
    return folder


class Whole(NamedTuple):
    """An uninterrupted conversion: its files, and how long its two workers took from the plan on."""

    files: dict[str, str]
    working_s: float


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    process = start(source, folder / "dataset", folder)
    wait_for_plan(process, folder / "dataset")
    begin = time.monotonic()
    assert process.wait() == 0
    return Whole(tree_hashes(folder / "dataset"), time.monotonic() - begin)


def command(source: Path, dataset: Path, folder: Path, workers: int = 2, shard_bytes: int = 0) -> list[str]:
    (folder / "program.py").write_text(PROGRAM)
    numbers = [str(workers), str(shard_bytes or SHARD_BYTES)]
    return [sys.executable, str(folder / "program.py"), str(source), str(dataset), *numbers]


def start(source: Path, dataset: Path, folder: Path) -> psutil.Popen:
    return psutil.Popen(command(source, dataset, folder), stderr=subprocess.DEVNULL, cwd=ROOT)


def killed_once(
    source: Path, dataset: Path, folder: Path, rng: np.random.Generator, working_s: float
) -> bool:
    """Starts the conversion, kills the parent or a worker after a random time; False if it was through."""
    process = start(source, dataset, folder)
    wait_for_plan(process, dataset)
    time.sleep(float(rng.random()) * working_s)
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


def drill(source: Path, whole: Whole, folder: Path, seed: int, kills: int) -> None:
    """Conversions that are killed up to three times each and then finished, until so many kills are done."""
    done = trial = 0
    while done < kills:
        rng, dataset = np.random.default_rng((15, seed, trial)), folder / f"dataset{trial}"
        for _ in range(int(rng.integers(1, 4))):
            if not killed_once(source, dataset, folder, rng, whole.working_s):
                break
            done += 1
        finish(source, dataset)
        assert tree_hashes(dataset) == whole.files, f"trial {trial} gave other files"
        shutil.rmtree(dataset)
        trial += 1
        assert trial <= 5 * kills + 5, "nearly no conversion lived long enough to be killed"


def finish(source: Path, dataset: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """What a user would do after a crash: the same command again, unless the data set is finished."""
    if not (dataset / "dataset.json").exists() or (dataset / PLAN).exists():
        convert(source, dataset, shard_bytes=shard_bytes)


@pytest.mark.slow
def test_killed_at_random_moments_it_is_finished_with_the_same_bytes(
    source: Path, whole: Whole, tmp_path: Path
) -> None:
    drill(source, whole, tmp_path, seed=0, kills=8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_two_hundred_times_it_is_finished_with_the_same_bytes(
    source: Path, whole: Whole, tmp_path: Path
) -> None:
    drill(source, whole, tmp_path, seed=1, kills=200)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of about equal size, for three shards."""
    folder = tmp_path_factory.mktemp("few") / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(noise(number, 20, 20), "PNG"))
    return folder


FEW_SHARD_BYTES = 7_000


@pytest.fixture(scope="module")
def traced() -> list[str]:
    """The begin of a command that runs another under strace."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace processes here")
    return [strace, "-f", "-y"]  # with --seccomp-bpf, release 6.1 injects nothing


def calls_on(folder: Path, log: Path) -> list[tuple[str, int]]:
    """(system call, its number among those of its name in its thread) of all that touch the folder.

    Only the first thread counts: strace counts by thread, and the conversion of one worker is one.
    """
    seen: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    first = log.read_text().split(maxsplit=1)[0]
    for line in log.read_text().splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match and match[1] == first:
            seen[match[2]] = seen.get(match[2], 0) + 1
            if str(folder) in match[3]:
                found.append((match[2], seen[match[2]]))
    return found


def environment() -> dict[str, str]:
    """The same calls in every run: no byte code is written, no hash is random."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_at_every_system_call_it_is_finished_with_the_same_bytes(
    few: Path, traced: list[str], tmp_path: Path
) -> None:
    # One path for all runs, so that their calls are the same; a run before them warms what is cached.
    dataset, log = tmp_path / "dataset", tmp_path / "log"
    run = command(few, dataset, tmp_path, workers=1, shard_bytes=FEW_SHARD_BYTES)
    for _ in range(2):
        shutil.rmtree(dataset, ignore_errors=True)
        trace = [*traced, "-o", str(log), "-e", "trace=" + ",".join(CALLS), *run]
        subprocess.run(trace, check=True, env=environment(), cwd=ROOT)
    expected, points = tree_hashes(dataset), calls_on(dataset, log)
    assert len([name for name in expected if name.endswith(".tar")]) == 3
    assert len(points) >= 100
    wrong, killed = [], 0
    for name, number in points:
        shutil.rmtree(dataset, ignore_errors=True)
        kill = [*traced, "-o", os.devnull, "-e", f"trace={name}"]
        kill += ["-e", f"inject={name}:signal=KILL:when={number}", *run]
        code = subprocess.run(kill, env=environment(), cwd=ROOT, capture_output=True).returncode
        killed += code in (-signal.SIGKILL, 128 + signal.SIGKILL)
        finish(few, dataset, FEW_SHARD_BYTES)
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
    few: Path, small_disk: Path, tmp_path: Path, workers: int
) -> None:
    convert(few, tmp_path / "whole", shard_bytes=FEW_SHARD_BYTES)
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


def message_of_failure(source: Path, dataset: Path, workers: int) -> str | None:
    try:
        convert(source, dataset, workers=workers, shard_bytes=FEW_SHARD_BYTES)
    except RuntimeError as error:
        return str(error)
    return None
