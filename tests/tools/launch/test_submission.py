"""Launches that are handed to a queue, by stand-ins for its programs; the real ones: tests/drills/cluster."""

from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.strict import ConfigError
from viewmill.tools.launch import k8s, slurm
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.job_number import JOB_NUMBER, Number, kept_number, queued
from viewmill.tools.launch.start import main, read_written, run, write_files
from viewmill.tools.launch.sweep_launch import Sweep
from viewmill.tools.launch.targets import TARGETS
from viewmill.tools.launch.written import Written

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


def test_a_second_job_is_refused_while_the_first_is_in_the_queue(queue: Queue, tmp_path: Path) -> None:
    launched(tmp_path / "run")
    queue.lists("12", "13")
    with pytest.raises(ConfigError, match=r"run: SLURM job 12 waits or runs.* scancel 12"):
        launched(tmp_path / "run")
    assert len(queue.asked("sbatch")) == 1
    queue.lists("13")
    assert launched(tmp_path / "run")[0] == 0


def test_no_other_target_trains_into_the_folder_of_a_job_in_the_queue(queue: Queue, tmp_path: Path) -> None:
    launched(tmp_path / "run")
    queue.lists("12")
    with pytest.raises(ConfigError, match="SLURM job 12 waits or runs"):
        run(Written({}, []), tmp_path / "run")


def test_a_job_that_slurm_has_forgotten_has_ended(queue: Queue, tmp_path: Path) -> None:
    launched(tmp_path / "run")
    queue.fails(FORGOTTEN)
    assert launched(tmp_path / "run")[0] == 0


@pytest.mark.parametrize("reason", [AWAY, None])
def test_where_squeue_cannot_say_it_is_told_what_to_do(
    reason: str | None, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(tmp_path / "run")
    if reason is None:
        queue.alone(monkeypatch)
        (queue.folder / "squeue").unlink()
    else:
        queue.fails(reason)
    with pytest.raises(RuntimeError) as refused:
        launched(tmp_path / "run")
    told = str(refused.value)
    assert (reason or "no program squeue on this machine") in told
    assert (
        f"SLURM job 12, and squeue does not say whether that has ended ({reason or 'no program'}"[:60] in told
    )
    kept = tmp_path / "run" / JOB_NUMBER
    assert f"remove {kept} if it has" in told
    kept.unlink()
    assert launched(tmp_path / "run")[0] == 0


def test_variables_of_the_user_hide_no_job(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(tmp_path / "run")
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    queue.program("squeue", '[ -n "$SQUEUE_STATES" ] || echo 12')
    assert queued([str(tmp_path / "run")]) == {str(tmp_path / "run"): "12"}


def test_a_job_of_another_cluster_is_asked_of_that(queue: Queue, tmp_path: Path) -> None:
    queue.program("sbatch", "echo '12;east'")
    assert launched(tmp_path / "run")[1].endswith("submitted as SLURM job 12")
    queue.program("squeue", 'case "$*" in *"--jobs=12 --clusters=east"*) echo CLUSTER: east; echo 12;; esac')
    with pytest.raises(ConfigError, match="SLURM job 12 waits or runs"):
        launched(tmp_path / "run")


def test_what_is_no_number_is_named_and_not_passed_over(queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / JOB_NUMBER).write_text("soon\n")
    with pytest.raises(RuntimeError, match=r"job_id: expected the number of a SLURM job, got 'soon'"):
        queued([str(tmp_path)])


def test_files_that_were_written_before_are_refused_in_the_same_way(
    queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launched(tmp_path / "run")
    assert read_written(tmp_path / "run" / "launch").tasks == {str(tmp_path / "run"): ""}
    queue.lists("12")
    assert main([str(tmp_path / "run" / "launch")]) == 1
    assert "SLURM job 12 waits or runs" in capsys.readouterr().err


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


def test_a_sweep_in_the_queue_is_refused(queue: Queue, tmp_path: Path) -> None:
    sweep(tmp_path).carry_out()
    queue.lists("12_0", "12_1", "12_2")
    with pytest.raises(
        ConfigError, match=r"3 of 3 runs that are left wait or run as SLURM job 12;.*scancel 12$"
    ):
        sweep(tmp_path).carry_out()
    assert len(queue.asked("sbatch")) == 1
    assert "--jobs=12" in queue.asked("squeue")[-1].split()


def test_the_runs_of_a_sweep_that_have_ended_are_submitted_while_others_go_on(
    queue: Queue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(tmp_path).carry_out()
    queue.lists("12_0", "12_2")
    queue.program("sbatch", "echo 15")
    assert sweep(tmp_path, "1,2,3,4").carry_out() == 0
    assert (
        "2 of 4 runs that are left wait or run as SLURM job 12, and are passed over"
        in capsys.readouterr().err
    )
    assert numbers(tmp_path) == {"lr=1": "12_0\n", "lr=2": "15_0\n", "lr=3": "12_2\n", "lr=4": "15_1\n"}
