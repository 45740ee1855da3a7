"""`viewmill launch --on slurm` on a real SLURM: the time limit, a lost node, and a sweep as a job array."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from viewmill.engine.config import load_config
from viewmill.engine.telemetry import read_lines
from viewmill.shards.convert import convert

from tests.drills.cluster.slurm import Slurm, free_ports, why_not
from tests.drills.cluster.test_hosts import SETTINGS, words_of
from tests.drills.job import Job, result_of
from tests.engine.small_training import equal
from tests.tools.test_launchers import JOB, PYTHON, write_images

LACKING = why_not()
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
WAIT_S = 900.0  # on a machine that does much else
WORDS = [*words_of(SETTINGS), "epochs=20", "checkpoint.every_steps=5", "checkpoint.every_epochs=null"]


class Site(NamedTuple):
    """Two nodes, a data set, and a folder for runs."""

    slurm: Slurm
    data: Path
    folder: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("slurm")
    write_images(folder / "source", count=20, seed=0)
    convert(folder / "source", folder / "ds")
    slurm = Slurm(folder / "cluster", nodes=2)
    try:
        yield Site(slurm, folder / "ds", folder)
    finally:
        slurm.close()


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> Any:
    """The last checkpoint of two ranks of this machine, without any launcher."""
    ended = Job(load_config("hydes_tiny", WORDS), site.data, site.folder / "calm", world_size=2).end()
    assert ended.codes == [0, 0], ended.told
    return result_of(site.folder / "calm")


def launch(site: Site, run: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`viewmill launch --on slurm`, as from a login node."""
    command = [*PYTHON, "viewmill.tools.cli", "launch", "hydes_tiny", "--data", str(site.data)]
    command += ["--out", str(run), "--on", "slurm", *words]
    env = {name: value for name, value in site.slurm.env.items() if name not in JOB}
    env |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=WAIT_S)


def submit(site: Site, run: Path, *words: str) -> str:
    """The number of the job."""
    done = launch(site, run, *WORDS, *words)
    assert done.returncode == 0, done.stderr
    return number_in(done.stdout)


def number_in(told: str) -> str:
    """Of the job that was submitted."""
    number = re.search(r"submitted as SLURM job (\d+)", told)
    assert number is not None, told
    return number[1]


def refused(site: Site, run: Path, *words: str) -> str:
    """What a launch says that submits nothing."""
    before = site.slurm.ask("squeue", "--noheader", "--array")
    done = launch(site, run, *WORDS, *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert site.slurm.ask("squeue", "--noheader", "--array").count("\n") == before.count("\n")
    return done.stderr


def steps_of(run: Path) -> int:
    """How many are logged."""
    return len(read_lines(run / "metrics.jsonl")) if (run / "metrics.jsonl").is_file() else 0


def wait_for_step(run: Path, step: int) -> None:
    """Until so many steps are logged."""
    until_s = time.monotonic() + WAIT_S
    while steps_of(run) < step:
        assert time.monotonic() < until_s, output_of(run)
        time.sleep(0.05)


def output_of(run: Path) -> str:
    """What the jobs of a run have written."""
    return "".join(path.read_text() for path in sorted((run / "launch").glob("slurm-*.out")))[-3000:]


def kinds(run: Path) -> list[str]:
    """The run's events that say how it went."""
    told = ("start", "requeue", "resume", "end", "fault")
    return [line["event"] for line in read_lines(run / "events.jsonl") if line["event"] in told]


def ranks_of(run: Path) -> list[int]:
    """The process ids of the ranks."""
    return [json.loads(path.read_text())["pid"] for path in sorted((run / "heartbeats").glob("rank-*.json"))]


def is_pending(pid: int, number: int) -> bool:
    """Whether a signal waits for a process that is stopped."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [
        int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))
    ]
    return any(mask >> (number - 1) & 1 for mask in masks)


def wait_for_signal(pids: list[int], number: int) -> None:
    """Until it waits for one of the processes."""
    until_s = time.monotonic() + WAIT_S
    while not any(is_pending(pid, number) for pid in pids):
        assert time.monotonic() < until_s, "SLURM has sent no signal"
        time.sleep(0.2)


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def limit_time(site: Site, job: str, minutes: int) -> None:
    """The limit comes in so many minutes, or up to one earlier."""
    lines = site.slurm.ask("squeue", "--noheader", "--job", job, "--format=%M").split(":")
    passed = sum(int(part) * 60**place for place, part in enumerate(reversed(lines))) // 60
    site.slurm.ask("scontrol", "update", f"JobId={job}", f"TimeLimit={passed + minutes}")


def bring_to_its_time_limit(site: Site, job: str, run: Path) -> None:
    """The limit comes while the run is under way: it is made two minutes, and the ranks wait for its signal.

    SLURM looks twice a minute which jobs are to be told, in which a run of seconds would end.
    """
    pids = ranks_of(run)
    send(pids, signal.SIGSTOP)
    try:
        limit_time(site, job, minutes=2)
        wait_for_signal(pids, signal.SIGUSR1)
    finally:
        send(pids, signal.SIGCONT)


def halt_at_step(runs: dict[str, Path], step: int) -> dict[str, list[int]]:
    """The ranks of each run, which stand still from that step on or soon after it."""
    halted: dict[str, list[int]] = {}
    until_s = time.monotonic() + WAIT_S
    while len(halted) < len(runs):
        assert time.monotonic() < until_s, [output_of(run.parent) for run in runs.values()]
        for task, run in runs.items():
            if task not in halted and steps_of(run) >= step:
                halted[task] = ranks_of(run)
                send(halted[task], signal.SIGSTOP)
        time.sleep(0.05)
    return halted


def test_a_job_at_its_time_limit_goes_on_and_ends_in_the_weights_of_an_undisturbed_run(
    site: Site, undisturbed: Any
) -> None:
    run = site.folder / "limited"
    options = ["--nodes", "2", "--ranks-per-node", "1", "--time", "60", "--option", "signal_seconds=100"]
    job = submit(site, run, *options)
    wait_for_step(run, 3)
    bring_to_its_time_limit(site, job, run)
    assert site.slurm.wait(job, "PENDING", timeout_s=WAIT_S) == "PENDING", output_of(run)
    assert (run / "launch" / "exit_code").read_text() == "85\n"
    site.slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert site.slurm.wait(job, "COMPLETED", timeout_s=WAIT_S) == "COMPLETED", output_of(run)
    assert site.slurm.restarts(job) == 1
    assert kinds(run) == ["start", "requeue", "resume", "end"]
    assert json.loads((run / "environment.json").read_text())["world_size"] == 2
    assert equal(result_of(run), undisturbed)


def test_a_cancelled_job_saves_and_stays_away(site: Site) -> None:
    """While it trains no other job does so there, not one either that was submitted by hand."""
    run = site.folder / "cancelled"
    words = ["--ranks-per-node", "2", "--cpus", "2", "epochs=4000"]
    job = submit(site, run, *words)
    wait_for_step(run, 3)
    assert f"SLURM job {job} waits or runs" in refused(site, run, *words, "--resume")
    other = site.slurm.ask("sbatch", "--parsable", str(run / "launch" / "slurm.sh"))
    assert site.slurm.wait(other, timeout_s=WAIT_S) == "FAILED"
    assert f"error: SLURM job {job} trains into {run}" in output_of(run)
    assert (run / "launch" / "job_id").read_text() == f"{job}\n"
    site.slurm.ask("scancel", job)
    assert site.slurm.wait(job, timeout_s=WAIT_S) == "CANCELLED"
    assert kinds(run) == ["start", "requeue"]
    assert site.slurm.restarts(job) == 0


def test_a_sweep_is_an_array_whose_failed_run_stops_no_other(site: Site) -> None:
    out = site.folder / "sweep"
    words = [word for word in WORDS if not word.startswith("model.backbone")] + ["epochs=2"]
    words += ["--sweep", "optimizer.lr=1e-3", "--sweep", "model.backbone=test_resnet,no_such_net"]
    first = launch(site, out, *words, "--option", "wait=true")
    assert first.returncode == 1, first.stdout + first.stderr  # as sbatch --wait says: a task has failed
    told = json.loads(launch(site, out, *words, "--results", "--json").stdout)
    stands = {line["run"]: (line["status"], line["exit_code"]) for line in told}
    assert stands == {
        "lr=1e-3,backbone=test_resnet": ("finished", 0),
        "lr=1e-3,backbone=no_such_net": ("failed", 1),
    }
    plan = json.loads(launch(site, out, *words, "--explain", "--json").stdout)
    assert len(plan) == 1
    assert "#SBATCH --array=0-0\n" in plan[0]["files"]["slurm.sh"]  # the failed one is left


def without_controller(site: Site) -> Path:
    """The configuration of a SLURM whose controller is away."""
    path = site.folder / "away.conf"
    text = (site.slurm.folder / "slurm.conf").read_text()
    path.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", f"SlurmctldPort={free_ports(1)[0]}", text))
    return path


def until_it_came_back(site: Site, task: str) -> None:
    until_s = time.monotonic() + WAIT_S
    while site.slurm.restarts(task) == 0:
        assert time.monotonic() < until_s, site.slurm.state(task)
        time.sleep(0.5)


def test_a_job_that_waits_is_the_only_one_of_its_folder(site: Site) -> None:
    run, held = site.folder / "held", "--sbatch=--hold"
    first = submit(site, run, held)
    assert f"SLURM job {first} waits or runs" in refused(site, run, held)
    unknown = launch(site, run, *WORDS, held, SLURM_CONF=str(without_controller(site)))
    assert unknown.returncode == 1
    assert "Unable to contact slurm controller" in unknown.stderr
    assert f"remove {run}/launch/job_id if it has" in unknown.stderr
    site.slurm.ask("scancel", first)
    second = submit(site, run, held)
    site.slurm.ask("scancel", second)
    assert int(second) > int(first)


def test_tasks_of_a_sweep_at_their_time_limit_are_requeued_each_by_itself(site: Site) -> None:
    """The task that started last has the number of the whole array, and is the first that goes."""
    out, rates = site.folder / "limited sweep", ["1e-3", "5e-4", "2e-4"]
    words = ["--time", "60", "--option", "signal_seconds=100", "--sweep", f"optimizer.lr={','.join(rates)}"]
    started = launch(site, out, *WORDS, *words)
    assert started.returncode == 0, started.stderr
    array = number_in(started.stderr)
    runs = {f"{array}_{task}": out / f"lr={rate}" for task, rate in enumerate(rates)}
    halted = halt_at_step(runs, 3)
    try:
        for task in runs:
            limit_time(site, task, minutes=2)
        for pids in halted.values():
            wait_for_signal(pids, signal.SIGUSR1)
        for task in runs:
            limit_time(site, task, minutes=60)  # they are told, and none is killed while it stands still
        numbers = dict(line.split() for line in site.slurm.ask("squeue", "-h", "--format=%A %i").splitlines())
        first = numbers[array]
        send(halted[first], signal.SIGCONT)
        assert site.slurm.wait(first, "PENDING", timeout_s=WAIT_S) == "PENDING", output_of(out)
        assert "3 of 3 runs that are left wait or run" in refused(site, out, *words)
        others = [task for task in runs if task != first]
        assert [(site.slurm.state(task), site.slurm.restarts(task)) for task in others] == [
            ("RUNNING", 0)
        ] * 2
    finally:
        for pids in halted.values():
            send(pids, signal.SIGCONT)
    for task, run in runs.items():
        until_it_came_back(site, task)
        assert site.slurm.wait(task, "COMPLETED", timeout_s=WAIT_S) == "COMPLETED", output_of(out)
        assert (site.slurm.restarts(task), kinds(run)) == (1, ["start", "requeue", "resume", "end"]), task
        assert not (run / "launch" / "job_id").exists()
    told = json.loads(launch(site, out, *WORDS, *words, "--results", "--json").stdout)
    assert [(line["status"], line["exit_code"]) for line in told] == [("finished", 0)] * 3
