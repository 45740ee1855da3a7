"""From a laptop to a cluster: every line of that part of tools/README.md is typed, in its order."""

import json
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from viewmill.engine.telemetry import read_lines

from tests.drills.cluster import namespaces
from tests.drills.cluster.slurm import Slurm
from tests.drills.cluster.slurm import why_not as why_no_slurm
from tests.tools.launching import JOB, PYTHON

README = Path(__file__).parents[3] / "tools" / "README.md"
LACKING = namespaces.why_not() or why_no_slurm()
pytestmark = [
    pytest.mark.soak,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(LACKING is not None, reason=str(LACKING)),
]
WAIT_S = 1200.0
LAST_STEP = {"RUN": 2, "RUN-2": 2, "RUN-HOSTS": 3, "RUN-SLURM": 2, "SWEEP/lr=1e-3": 2, "SWEEP/lr=3e-4": 2}


def lines_of_the_path() -> list[str]:
    """The commands, as they stand there."""
    text = README.read_text(encoding="utf-8")
    part = text[text.index("## From a laptop to a cluster") :].split("\n## ")[0]
    return re.findall(r"^ +(viewmill .*)$", part, re.MULTILINE)


class Shell:
    """Types lines in a folder, from a machine that knows two hosts and is a login node."""

    def __init__(self, folder: Path, cluster: namespaces.Cluster, slurm: Slurm) -> None:
        self.folder, self.cluster, self.slurm = folder, cluster, slurm
        self.env = {name: value for name, value in slurm.env.items() if name not in JOB}
        self.env |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}

    def type(self, line: str) -> None:
        """Runs it to its end, a submitted job included; only where the keys of the hosts lie is added."""
        words = shlex.split(line)[1:]
        if "--hosts" in words:
            config = str(self.cluster.ssh_config)
            is_preflight = words[0] == "preflight"
            words += ["--ssh", f"ssh -F {config}"] if is_preflight else ["--option", f"ssh_config={config}"]
        done = subprocess.run(
            [*PYTHON, "viewmill.tools.cli", *words],
            cwd=self.folder, env=self.env, capture_output=True, text=True, check=False, timeout=WAIT_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        for job in re.findall(r"submitted as SLURM job (\d+)", done.stdout + done.stderr):
            self.wait_for(job)

    def wait_for(self, job: str) -> None:
        """Until a job and all tasks of it have ended."""
        until_s = time.monotonic() + WAIT_S
        while (states := self.states(job)) != {"COMPLETED"}:
            assert not states & {"FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}, states
            assert time.monotonic() < until_s, states
            time.sleep(0.5)

    def states(self, job: str) -> set[str]:
        """Of the job, or of the tasks of its array."""
        words = self.slurm.ask("scontrol", "show", "job", "-o", job).split()
        return {word.partition("=")[2] for word in words if word.startswith("JobState=")}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    cluster = namespaces.Cluster(tmp_path / "namespaces", size=2)
    try:
        slurm = Slurm(tmp_path / "slurm", nodes=2)
        try:
            (tmp_path / "hosts").symlink_to(cluster.hosts("h1", "h2", slots=1))
            yield Shell(tmp_path, cluster, slurm)
        finally:
            slurm.close()
    finally:
        cluster.close()


def test_every_line_from_a_laptop_to_a_cluster_does_what_it_says(shell: Shell) -> None:
    lines = lines_of_the_path()
    assert len(lines) >= 12
    for line in lines:
        shell.type(line)
    for run, epochs in LAST_STEP.items():
        assert (shell.folder / run / "export" / "backbone.safetensors").is_file(), run
        assert read_lines(shell.folder / run / "metrics.jsonl")[-1]["epoch"] == epochs - 1, run
    assert json.loads((shell.folder / "RUN-HOSTS" / "environment.json").read_text())["world_size"] == 2
    assert json.loads((shell.folder / "RUN-SLURM" / "environment.json").read_text())["world_size"] == 2
    for page in ("profile.html", "plan.html"):
        assert "<html" in (shell.folder / page).read_text(encoding="utf-8")
