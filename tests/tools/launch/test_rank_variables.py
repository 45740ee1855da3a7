"""The variables that a launch names: all that its files set, and all that a real torchrun gives to a rank."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from viewmill.tools.launch.explained import explanation, plan
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.rank_variables import OTHERS
from viewmill.tools.launch.start import write_files
from viewmill.tools.launch.sweep import Combination, jobs_of
from viewmill.tools.launch.targets import TARGETS, options_of
from viewmill.tools.launch.written import Written

from tests.tools.launching import port

PODS = {"image": "i", "volumes": ["all:/"]}
TARGET_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "local": ("local", {}),
    "ssh": ("ssh", {"hosts": "{hosts}"}),
    "deepspeed": ("ssh", {"hosts": "{hosts}", "launcher": "deepspeed"}),
    "mpi": ("mpi", {}),
    "mpi on hosts": ("mpi", {"hosts": "{hosts}"}),
    "slurm": ("slurm", {"signal_seconds": 90}),
    "k8s": ("k8s", PODS),
}
# torchrun, as the launch calls it, with a program in the place of the training that leaves its variables.
TORCHRUN = """#!/bin/bash
words=()
for word in "$@"; do [ "$word" = viewmill.tools.train ] && break; words+=("$word"); done
exec "{python}" "${{words[@]:0:${{#words[@]}}-1}}" --no-python "{folder}/leave"
"""
LEAVE = """#!/bin/sh
env -0 >"{folder}/env-$RANK"
"""
OF_A_SHELL = {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}


def written(name: str, job: Job, folder: Path) -> Written:
    (folder / "hosts").write_text("h1 slots=2\nh2 slots=2\n")
    target, given = TARGET_OPTIONS[name]
    options = {
        key: value.format(hosts=folder / "hosts") if isinstance(value, str) else value
        for key, value in given.items()
    }
    return TARGETS[target].write(job, options_of(target, options))


def job_in(folder: Path, name: str, **changes: Any) -> Job:
    nodes = 1 if name in ("local", "mpi") else 2
    env = {"OMP_NUM_THREADS": "1", "NCCL_DEBUG": "INFO", "SECRET": "a 'b'"}
    paths = {"recipe": "hydes_tiny", "data": "/data", "out": str(folder / "run")}
    return Job(**{**paths, "nodes": nodes, "ranks_per_node": 2, "env": env, **changes})


def exported(files: dict[str, str]) -> dict[str, str]:
    """What the scripts and manifests of a launch set to a value that stands there; lease.sh is no rank's."""
    found = {}
    for name, text in files.items():
        if name.endswith(".yaml"):
            (pod,) = (one for one in [yaml.safe_load(text)["spec"]["pytorchReplicaSpecs"]["Worker"]])
            (container,) = pod["template"]["spec"]["containers"]
            found |= {line["name"]: line["value"] for line in container["env"]}
        elif name in ("ranks.sh", "rank.sh", "slurm.sh"):
            for line in re.findall(r"^export (.*)$", text, re.MULTILINE):
                words = shlex.split(line)
                found |= dict(word.split("=", 1) for word in words if "=" in word and "=$" not in word)
    return found


@pytest.mark.parametrize("name", TARGET_OPTIONS)
def test_what_is_set_for_the_ranks_is_named_with_its_value(name: str, tmp_path: Path) -> None:
    job = job_in(tmp_path, name)
    made = written(name, job, tmp_path)
    told = {one.name: one.value for one in made.variables}
    assert len(told) == len(made.variables)
    found = exported(made.files)
    assert {"NCCL_DEBUG", "SECRET"} <= set(found)
    assert found.items() <= told.items()
    for variable in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", OTHERS):
        assert variable in told
    assert all(one.value is not None or one.source for one in made.variables)


def test_the_explanation_and_the_plan_name_them(tmp_path: Path) -> None:
    job = job_in(tmp_path, "local", port=31000)
    made = written("local", job, tmp_path)
    lines = explanation(job, made, "cpu").partition("# --- variables of every rank\n")[2].splitlines()
    for line in (
        "SECRET='a '\"'\"'b'\"'\"''",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600",
        f"VIEWMILL_RUN={job.out}",
        "MASTER_ADDR=127.0.0.1",
        "MASTER_PORT=31000",
        "WORLD_SIZE=2",
        "RANK: torchrun, 0 to 1",
        "all others: of the shell that launches",
    ):
        assert line in lines
    tree = plan(job, made, "cpu")
    assert tree["env"]["MASTER_PORT"] == "31000"
    assert {"name": "RANK", "value": None, "source": "torchrun, 0 to 1"} in tree["variables"]


def test_the_runs_of_a_sweep_are_told_that_they_may_begin(tmp_path: Path) -> None:
    jobs = jobs_of(job_in(tmp_path, "slurm"), [Combination("lr=1", {"optimizer.lr": "1"})])
    write_array = TARGETS["slurm"].write_array
    assert write_array is not None
    made = write_array(jobs, options_of("slurm", {}), str(tmp_path))
    assert [one.value for one in made.variables if one.name == "VIEWMILL_MAY_BEGIN"] == ["1"]


@pytest.mark.slow
def test_torchrun_gives_a_rank_what_is_named_and_no_more(tmp_path: Path) -> None:
    for name, text in (("python", TORCHRUN), ("leave", LEAVE)):
        (tmp_path / name).write_text(text.format(python=sys.executable, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    job = job_in(tmp_path, "local", python=str(tmp_path / "python"), port=int(port()))
    made = written("local", job, tmp_path)
    folder = write_files(made, Path(job.out), sys.executable)
    words = ["env", "-i", "PATH=/usr/bin:/bin", "bash", str(folder / "ranks.sh")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    told = {one.name: one.value for one in made.variables}
    for rank in range(2):
        lines = (tmp_path / f"env-{rank}").read_text().split("\0")[:-1]
        found = dict(line.split("=", 1) for line in lines)
        assert set(found) - OF_A_SHELL <= set(told)
        # Viewmill itself sets the interface.
        assert set(told) - set(found) == {OTHERS, "GLOO_SOCKET_IFNAME"}
        assert {name: value for name, value in told.items() if value is not None}.items() <= found.items()
