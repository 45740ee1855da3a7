"""Launches that are handed to a queue, by stand-ins for its programs; the real ones: tests/drills/cluster."""

from pathlib import Path
from typing import Any

import pytest
from viewmill.tools.launch import k8s, slurm
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.job_number import JOB_NUMBER, Number, kept_number
from viewmill.tools.launch.start import run, write_files
from viewmill.tools.launch.sweep_launch import Sweep
from viewmill.tools.launch.targets import TARGETS

AWAY = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
FORGOTTEN = "slurm_load_jobs error: Invalid job id specified"


class Queue:
    """A folder with programs, which a launch finds before all others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.program("sbatch", 'echo "$@" >>"$0.asked"; echo 12')
        self.lists()

    def alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever else this machine has is not found."""
        (self.folder / "bash").symlink_to("/bin/bash")
        monkeypatch.setenv("PATH", str(self.folder))

    def program(self, name: str, body: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.folder / name).chmod(0o755)

    def lists(self, *jobs: str) -> None:
        self.program("squeue", f'echo "$@" >>"$0.asked"; printf "%s\\n" {" ".join(jobs)}')

    def fails(self, told: str) -> None:
        self.program("squeue", f"echo '{told}' >&2; exit 1")

    def asked(self, name: str) -> list[str]:
        path = self.folder / f"{name}.asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{queue.folder}:/usr/bin:/bin")
    return queue


def launched(out: Path, **options: Any) -> tuple[int, str]:
    written = slurm.write(Job("hydes_tiny", "/data", str(out)), slurm.Options(**options))
    write_files(written, out, "python3")
    return run(written, out)


def sweep(out: Path, values: str = "1,2,3") -> Sweep:
    job = Job("hydes_tiny", "/data", str(out))
    return Sweep(job, [f"optimizer.lr={values}"], TARGETS["slurm"], slurm.Options())


def numbers(out: Path) -> dict[str, str]:
    return {path.parents[1].name: path.read_text() for path in sorted(out.glob(f"*/{JOB_NUMBER}"))}


def test_a_job_is_submitted_by_its_script_and_its_number_kept(queue: Queue, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert launched(out) == (0, f"{out}: submitted as SLURM job 12")
    assert queue.asked("sbatch") == [f"--parsable {out}/launch/slurm.sh"]
    assert kept_number(str(out)) == Number("12")


def test_a_job_that_is_refused_was_never_a_training(queue: Queue, tmp_path: Path) -> None:
    queue.program("sbatch", "echo 'sbatch: error: invalid partition' >&2; exit 1")
    for wait in (False, True):
        code, line = launched(tmp_path / "run", wait=wait)
        assert code == 1
        assert line.startswith("error: sbatch ended with exit code 1, and nothing was submitted")
    assert kept_number(str(tmp_path / "run")) is None


def test_a_job_that_is_waited_for_is_told_at_once_and_by_its_exit_code(
    queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "run" / JOB_NUMBER
    # The number is kept while sbatch still waits.
    queue.program("sbatch", f"echo 12; until grep -q 12 '{kept}'; do sleep 0.05; done; exit 3")
    code, line = launched(tmp_path / "run", wait=True)
    assert (code, line.partition(";")[0]) == (3, "error: SLURM job 12 ended with exit code 3")
    assert "submitted as SLURM job 12; waiting for its end" in capsys.readouterr().err


def test_without_the_programs_of_a_queue_it_is_told_where_they_are(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.alone(monkeypatch)
    (queue.folder / "sbatch").unlink()
    with pytest.raises(RuntimeError, match=r"no program sbatch; launch from a login node"):
        launched(tmp_path / "run")
    written = k8s.write(Job("hydes_tiny", "/v/data", "/v/run"), k8s.Options(image="i", volumes=("c:/v",)))
    with pytest.raises(RuntimeError, match=r"no program kubectl; install it.*nothing was started"):
        run(written, tmp_path)


def test_a_manifest_that_no_cluster_takes_was_never_a_training(queue: Queue, tmp_path: Path) -> None:
    queue.program("kubectl", "echo 'connection refused' >&2; exit 1")
    written = k8s.write(Job("hydes_tiny", "/v/data", "/v/run"), k8s.Options(image="i", volumes=("c:/v",)))
    write_files(written, tmp_path, "python3")
    code, line = run(written, tmp_path)
    assert (code, line.partition(";")[0]) == (
        1,
        "error: kubectl ended with exit code 1, and nothing was submitted",
    )


def test_every_run_of_a_sweep_has_the_number_of_its_task(queue: Queue, tmp_path: Path) -> None:
    assert sweep(tmp_path).carry_out() == 0
    assert numbers(tmp_path) == {"lr=1": "12_0\n", "lr=2": "12_1\n", "lr=3": "12_2\n"}
