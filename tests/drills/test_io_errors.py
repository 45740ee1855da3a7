"""Input/output errors injected into the system calls of a conversion: one clear line, then the same bytes."""

import shutil
from pathlib import Path

import pytest

from tests.drills.test_kills import CALLS, Job, command, finish
from tests.drills.tracing import recorded_calls, run_with_fault
from tests.shards.pictures import encoded, noise, tree_hashes

READS = ("openat", "fstat", "newfstatat", "preadv", "pread64", "read")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Six images, one of them no image, for three shards."""
    folder = tmp_path_factory.mktemp("io") / "source"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encoded(noise(number, 20, 20), "PNG"))
    (folder / "6.txt").write_text("no image")
    return Job(folder, 7_000)


def drill(job: Job, tmp_path: Path, names: tuple[str, ...], touching: Path, points_at_least: int) -> None:
    """Fails every one of these calls that touch a folder, one a run; then the same command again."""
    dataset = tmp_path / "dataset"
    run = command(job, dataset, tmp_path, workers=1)
    for _ in range(2):  # the first run warms what is cached, so that the calls are the same from then on
        shutil.rmtree(dataset, ignore_errors=True)
        points = recorded_calls(run, tmp_path / "log", names, touching)
    expected = tree_hashes(dataset)
    assert len(points) >= points_at_least
    wrong, failed = [], 0
    for name, number in points:
        shutil.rmtree(dataset, ignore_errors=True)
        result = run_with_fault(run, name, number, "error=EIO")
        last = (result.stderr.strip().splitlines() or [""])[-1]
        failed += result.returncode != 0
        if result.returncode and not ("Error: " in last and "Input/output error" in last):
            wrong.append(f"{name} {number}: {last}")
        finish(job, dataset)
        if tree_hashes(dataset) != expected:
            wrong.append(f"{name} {number}: other files")
    assert wrong == []
    assert failed >= 0.8 * len(points), f"only {failed} of {len(points)} faults were noticed"


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_each_failing_call_on_the_data_set_ends_in_one_line(job: Job, tmp_path: Path) -> None:
    drill(job, tmp_path, CALLS, tmp_path / "dataset", points_at_least=100)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_each_failing_read_of_the_source_ends_in_one_line(job: Job, tmp_path: Path) -> None:
    """A failing disk is no fault of the image: it must not fill the quarantine."""
    drill(job, tmp_path, READS, job.source, points_at_least=20)
