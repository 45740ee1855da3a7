"""The batch script, run by bash with stand-ins for SLURM's commands; the real ones: tests/drills/cluster."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.slurm import Options, array_of, write, write_array

HOSTILE = "a b'c\"$(touch gone)`touch gone`;&|*\\"
# Notes how it was called, leaves what a run leaves that was stopped, if told to, and ends as it is told.
SRUN = """#!{python}
import json, os, sys, time
seen = {{"argv": sys.argv[1:], "env": dict(os.environ)}}
open({seen!r}, "w").write(json.dumps(seen))
run = sys.argv[sys.argv.index("--out") + 1]
time.sleep(0.05)  # so that what it writes is newer than the start
for name in os.environ.get("LEAVES", "").split():
    os.makedirs(os.path.dirname(f"{{run}}/{{name}}"), exist_ok=True)
    open(f"{{run}}/{{name}}", "w").close()
import signal
if "WAITS" in os.environ:
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    open({signals!r}, "w").close()
    until = time.monotonic() + 60
    while not heard and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    open({signals!r}, "w").write(str(len(heard)))
    sys.exit(1)
if "TELLS" in os.environ:
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(1))
    os.kill(os.getppid(), signal.SIGUSR1)
    time.sleep(60)
sys.exit(int(os.environ.get("ENDS", "0")))
"""


def job(out: Path, **changes: Any) -> Job:
    return Job(
        **{"recipe": "hydes_tiny", "data": "/data/train", "out": str(out), "python": "python3", **changes}
    )


class Batch:
    """A script in a folder with commands that stand for SLURM's."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, folder / "srun.json"
        (folder / "bin").mkdir()
        paths = {"python": sys.executable, "seen": str(self.seen), "signals": str(folder / "srun.signals")}
        self._command("srun", SRUN.format(**paths))
        self._command("squeue", f"#!/bin/sh\ncat {folder}/queue 2>/dev/null\n")
        self._command("scontrol", f'#!/bin/sh\necho "$@" >>{folder}/scontrol\n')

    def _command(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def run(self, text: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMP"))}
        env = {**clean, "SLURM_JOB_ID": "7042", "SLURM_CPUS_ON_NODE": "16", **variables}
        env["PATH"] = f"{self.folder}/bin:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-s"], input=text, env=env, cwd=self.folder, capture_output=True, text=True, check=False
        )

    def srun(self) -> Any:
        """How srun was called last."""
        return json.loads(self.seen.read_text())

    def requeued(self, job: str = "7042") -> bool:
        asked = self.folder / "scontrol"
        return asked.exists() and asked.read_text() == f"requeue {job}\n"


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path)


def script(job: Job, **options: Any) -> str:
    return write(job, Options(**options)).files["slurm.sh"]


def trained(argv: list[str]) -> list[str]:
    """What follows the module: what viewmill train is given."""
    return argv[argv.index("viewmill.tools.train") + 1 :]


def test_hostile_values_reach_the_ranks_as_they_are(batch: Batch, tmp_path: Path) -> None:
    given = job(tmp_path / "run", overrides=(f"views.preset={HOSTILE}",), env={"NOTE": HOSTILE}, resume=True)
    done = batch.run(script(given))
    assert (done.returncode, done.stderr) == (0, "")
    assert trained(batch.srun()["argv"]) == given.train_arguments()
    assert batch.srun()["env"]["NOTE"] == HOSTILE
    assert not (tmp_path / "gone").exists()


def test_nodes_meet_on_the_node_of_the_script(batch: Batch, tmp_path: Path) -> None:
    given = job(tmp_path / "run", nodes=4, ranks_per_node=8, max_restarts=2)
    assert batch.run(script(given), SLURM_CPUS_PER_TASK="96").returncode == 0
    seen = batch.srun()
    host = os.uname().nodename
    assert {"--ntasks=4", "--cpus-per-task=96", "--kill-on-bad-exit=0"} <= set(seen["argv"])
    words = " ".join(seen["argv"])
    for option in ("nnodes 4", "nproc-per-node 8", "max-restarts 2", "rdzv-id 7042-0"):
        assert f" --{option} " in words
    assert f" --rdzv-endpoint {host}:{29500 + 42} " in words


def test_no_job_meets_beyond_the_last_port(batch: Batch, tmp_path: Path) -> None:
    for port, taken in ((64536, 65535), (65500, 65500 + 7999 % 36), (65535, 65535)):
        given = job(tmp_path / "run", nodes=2, port=port)
        assert batch.run(script(given), SLURM_JOB_ID="7999").returncode == 0
        assert f"{os.uname().nodename}:{taken}" in batch.srun()["argv"]


def test_one_node_listens_on_loopback_alone(batch: Batch, tmp_path: Path) -> None:
    assert batch.run(script(job(tmp_path / "run"))).returncode == 0
    argv = batch.srun()["argv"]
    assert "--standalone" in argv
    assert not any(word.startswith("--rdzv") for word in argv)


def test_the_script_asks_for_what_the_options_say(tmp_path: Path) -> None:
    options = {"partition": "gpu", "account": "me", "time": "1-00", "gpus": "a100:8", "mem": "0"}
    more = {"cpus": "96", "constraint": "ib&a100", "sbatch": ["--exclusive"], "signal_seconds": 300}
    text = script(job(tmp_path / "100% run", nodes=2), **options, **more)
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert asked == [
        "--job-name=viewmill-100--run",
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=96", "--gpus-per-node=a100:8", "--mem=0"),
        *("--partition=gpu", "--account=me", "--constraint=ib&a100", "--time=1-00", "--signal=B:USR1@300"),
        f'--output="{tmp_path}/100%% run/launch/slurm-%j.out"',
        *("--open-mode=append", "--requeue", "--exclusive"),
    ]


def asked_cpus(text: str) -> list[str]:
    return [
        line.partition("=")[2] for line in text.splitlines() if line.startswith("#SBATCH --cpus-per-task")
    ]


def test_gpus_bring_cores_for_the_threads_of_their_ranks(tmp_path: Path) -> None:
    given = job(tmp_path / "run", ranks_per_node=8, overrides=("views.num_threads=5", "torch_threads=2"))
    assert asked_cpus(script(given, gpus="8")) == ["56"]
    assert asked_cpus(script(replace(given, overrides=()), gpus="8")) == ["24"]  # 2 of the views, and 1
    assert asked_cpus(script(given, gpus="8", cpus="96")) == ["96"]
    assert asked_cpus(script(given)) == []
    for option in ("--cpus-per-gpu=12", "-c12", "--exclusive"):
        assert asked_cpus(script(given, gpus="8", sbatch=[option])) == []


def test_an_array_has_the_cores_of_its_largest_run(tmp_path: Path) -> None:
    runs = [
        job(tmp_path / n, overrides=(f"views.num_threads={n}", "torch_threads=1")) for n in ("2", "6", "4")
    ]
    assert asked_cpus(write_array(runs, Options(gpus="1"), str(tmp_path)).files["slurm.sh"]) == ["7"]


def test_a_saved_run_goes_back_into_the_queue(batch: Batch, tmp_path: Path) -> None:
    left = "requeue.json checkpoints/step_00000008/COMMIT"
    done = batch.run(script(job(tmp_path / "run")), ENDS="1", LEAVES=left)
    assert (done.returncode, batch.requeued()) == (85, True)
    assert (tmp_path / "run" / "launch" / "exit_code").read_text() == "85\n"


def test_a_requeued_run_resumes_and_may_begin(batch: Batch, tmp_path: Path) -> None:
    given = job(tmp_path / "run", overrides=("epochs=3",))
    assert batch.run(script(given), SLURM_RESTART_COUNT="2").returncode == 0
    assert trained(batch.srun()["argv"]) == [*given.train_arguments(), "--resume"]
    assert batch.srun()["env"]["VIEWMILL_MAY_BEGIN"] == "1"


def test_a_note_of_an_earlier_start_requeues_nothing(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "requeue.json").touch()
    os.utime(tmp_path / "run" / "requeue.json", (1e9, 1e9))
    done = batch.run(script(job(tmp_path / "run")), ENDS="1", LEAVES="checkpoints/step_00000008/COMMIT")
    assert (done.returncode, batch.requeued()) == (1, False)


def number_in(run: Path) -> str | None:
    path = run / "launch" / "job_id"
    return path.read_text() if path.exists() else None


def test_the_number_of_a_job_stays_while_it_is_in_the_queue(batch: Batch, tmp_path: Path) -> None:
    left = "requeue.json checkpoints/step_00000008/COMMIT"
    batch.run(script(job(tmp_path / "run")), ENDS="1", LEAVES=left)
    assert number_in(tmp_path / "run") == "7042\n"
    assert batch.run(script(job(tmp_path / "run")), SLURM_RESTART_COUNT="1").returncode == 0
    assert number_in(tmp_path / "run") is None


def test_a_job_begins_nothing_where_another_one_trains(batch: Batch, tmp_path: Path) -> None:
    """A script that was submitted by hand, twice."""
    kept = tmp_path / "run" / "launch" / "job_id"
    kept.parent.mkdir(parents=True)
    kept.write_text("7000;east\n")
    (tmp_path / "queue").write_text("7000\n")
    done = batch.run(script(job(tmp_path / "run")))
    assert (done.returncode, batch.seen.exists()) == (2, False)
    assert "SLURM job 7000 trains into" in done.stderr
    assert number_in(tmp_path / "run") == "7000;east\n"
    (tmp_path / "queue").unlink()
    assert batch.run(script(job(tmp_path / "run"))).returncode == 0


def test_a_job_keeps_the_number_that_was_kept_for_it(batch: Batch, tmp_path: Path) -> None:
    """With the cluster that it was submitted to."""
    kept = tmp_path / "run" / "launch" / "job_id"
    kept.parent.mkdir(parents=True)
    kept.write_text("7042;east\n")
    (batch.folder / "bin" / "srun").write_text(f"#!/bin/sh\ngrep -q '7042;east' {kept}\n")
    assert batch.run(script(job(tmp_path / "run"))).returncode == 0


def test_a_start_under_way_has_no_exit_code_of_an_earlier_one(batch: Batch, tmp_path: Path) -> None:
    earlier = tmp_path / "run" / "launch" / "exit_code"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("1\n")
    (batch.folder / "bin" / "srun").write_text(f"#!/bin/sh\n[ ! -e {earlier} ]\n")
    assert batch.run(script(job(tmp_path / "run"))).returncode == 0
    assert earlier.read_text() == "0\n"


def test_the_signal_is_passed_on_and_brings_the_job_back(batch: Batch, tmp_path: Path) -> None:
    done = batch.run(script(job(tmp_path / "run")), TELLS="1", LEAVES="checkpoints/step_00000008/COMMIT")
    assert (done.returncode, batch.requeued()) == (85, True)


def test_a_start_that_brought_no_checkpoint_is_the_last_one(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints" / "step_00000008").mkdir(parents=True)
    done = batch.run(script(job(tmp_path / "run")), TELLS="1")
    assert (done.returncode, batch.requeued()) == (85, False)
    assert "ask for more --time" in done.stderr


def test_a_signal_in_the_setup_ends_the_start_before_its_ranks(batch: Batch, tmp_path: Path) -> None:
    text = script(job(tmp_path / "run"), setup=["kill -USR1 $$", "touch loaded"])
    done = batch.run(text)
    assert (done.returncode, batch.requeued()) == (85, False)
    assert (tmp_path / "loaded").exists()
    assert not batch.seen.exists()
    assert "ask for more --time" in done.stderr
    assert (tmp_path / "run" / "launch" / "exit_code").read_text() == "85\n"


def test_a_signal_before_srun_is_known_is_passed_on_once(batch: Batch, tmp_path: Path) -> None:
    """bash runs its DEBUG trap before the line that notes srun's number: the signal comes exactly there."""
    ready = "until [ -e srun.signals ]; do sleep 0.05; done"
    early = f"""trap 'if [ "$BASH_COMMAND" = "srun=\\$!" ]; then {ready}; kill -USR1 $$; fi' DEBUG"""
    text = script(job(tmp_path / "run"), setup=[early])
    done = batch.run(text, WAITS="1", LEAVES="checkpoints/step_00000008/COMMIT")
    assert (done.returncode, batch.requeued()) == (85, True), done.stderr
    assert (tmp_path / "srun.signals").read_text() == "1"


def test_each_task_of_an_array_is_one_run(batch: Batch, tmp_path: Path) -> None:
    runs = [job(tmp_path / f"lr={lr}", overrides=(f"optimizer.lr={lr}",), resume=True) for lr in (1, 2)]
    written = write_array(runs, Options(parallel=1), str(tmp_path))
    text = written.files["slurm.sh"]
    assert "#SBATCH --array=0-1%1\n" in text
    assert batch.run(text, SLURM_ARRAY_JOB_ID="7040", SLURM_ARRAY_TASK_ID="1").returncode == 0
    assert sorted(trained(batch.srun()["argv"])) == sorted(runs[1].train_arguments())
    assert batch.run(text, SLURM_ARRAY_JOB_ID="7040", SLURM_ARRAY_TASK_ID="2").returncode == 2
    assert written.commands[0].argv == ["sbatch", "--parsable", f"{tmp_path}/launch/slurm.sh"]
    assert written.tasks == {runs[0].out: "_0", runs[1].out: "_1"}


def test_a_task_of_an_array_requeues_itself_and_no_other(batch: Batch, tmp_path: Path) -> None:
    """The task that starts last has the number of the whole array as its SLURM_JOB_ID."""
    runs = [job(tmp_path / f"lr={lr}", resume=True) for lr in (1, 2)]
    text = write_array(runs, Options(), str(tmp_path)).files["slurm.sh"]
    left = {"ENDS": "1", "LEAVES": "requeue.json checkpoints/step_00000008/COMMIT"}
    done = batch.run(text, SLURM_ARRAY_JOB_ID="7042", SLURM_ARRAY_TASK_ID="1", **left)
    assert (done.returncode, batch.requeued("7042_1")) == (85, True)


def test_a_single_run_has_nothing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parallel=2 is of the runs of a sweep"):
        script(job(tmp_path / "run"), parallel=2)


def test_an_array_without_a_limit_has_none() -> None:
    assert array_of(3, None) == "0-2"


@pytest.mark.parametrize(
    "options",
    [
        {"partition": "a b"},
        {"time": ""},
        {"sbatch": ["exclusive"]},
        {"setup": ["a\nb"]},
        {"gpu": "8"},
        {"cpus": "some"},
    ],
)
def test_options_that_no_line_can_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Options(**options)


def test_a_folder_that_no_line_can_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot stand in a batch script"):
        script(job(tmp_path / 'a"b'))
