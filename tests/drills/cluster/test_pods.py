"""The command of a PyTorchJob's pods, run as the training operator runs it; one of two is replaced."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from viewmill.engine.telemetry import read_lines
from viewmill.shards.convert import convert
from viewmill.tools.launch.job import Job
from viewmill.tools.launch.k8s import MANIFEST, Options, write

from tests.drills.cluster.slurm import kill_tree
from tests.drills.cluster.test_hosts import SETTINGS, words_of
from tests.tools.test_launchers import JOB, port, write_images

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
WAIT_S = 900.0  # on a machine that does much else


class Pods:
    """The pods of a manifest, as processes of this machine."""

    def __init__(self, job: Job, folder: Path) -> None:
        options = Options(image="none", volumes=[f"all:{folder}"], save_seconds=120)
        self.spec: Any = yaml.safe_load(write(job, options).files[MANIFEST])["spec"]
        worker = self.spec["pytorchReplicaSpecs"]["Worker"]
        (self.container,) = worker["template"]["spec"]["containers"]
        self.port, self.folder = self.container["ports"][0]["containerPort"], folder
        self.count = worker["replicas"]

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        """Its container's command with its variables and those that the operator adds."""
        clean = {name: value for name, value in os.environ.items() if name not in JOB}
        own = {line["name"]: line["value"] for line in self.container["env"]}
        words = [word.replace("$$", "$") for word in self.container["command"]]
        with (self.folder / f"pod-{number}.log").open("ab") as log:
            return subprocess.Popen(
                words,
                env={**clean, **own, **self.variables(number)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def variables(self, number: int) -> dict[str, str]:
        """What the operator tells torchrun: the policy, and the first worker's address and port.

        A pod and its successor have one address, by which agents are ordered: here one of loopback.
        """
        policy = self.spec["elasticPolicy"]
        return {
            "PET_RDZV_BACKEND": policy["rdzvBackend"],
            "PET_RDZV_ENDPOINT": f"127.0.0.1:{self.port}",
            "PET_NNODES": f"{policy['minReplicas']}:{policy['maxReplicas']}",
            "PET_MAX_RESTARTS": str(policy["maxRestarts"]),
            "PET_LOCAL_ADDR": f"127.0.0.{number + 1}",
        }

    def wait_for_the_first(self) -> None:
        """Until it listens: the first worker has the rendezvous."""
        until_s = time.monotonic() + WAIT_S
        while time.monotonic() < until_s:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError(self.told())

    def told(self) -> str:
        """What the pods have written last."""
        return "\n".join(path.read_text()[-1500:] for path in sorted(self.folder.glob("pod-*.log")))


def wait_for_step(pods: Pods, run: Path, step: int) -> None:
    until_s = time.monotonic() + WAIT_S
    while not (run / "metrics.jsonl").is_file() or len(read_lines(run / "metrics.jsonl")) < step:
        assert time.monotonic() < until_s, pods.told()
        time.sleep(0.05)


def test_a_pod_that_is_drained_saves_and_its_successor_goes_on(tmp_path: Path) -> None:
    write_images(tmp_path / "source", count=20, seed=0)
    convert(tmp_path / "source", tmp_path / "ds")
    job = Job(
        "hydes_tiny",
        str(tmp_path / "ds"),
        str(tmp_path / "run"),
        (*words_of(SETTINGS), "epochs=30", "checkpoint.every_epochs=null"),
        nodes=2,
        python=sys.executable,
        port=int(port()),
        env={"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        max_restarts=2,
    )
    pods, run = Pods(job, tmp_path), tmp_path / "run"
    running = [pods.start(0)]
    try:
        pods.wait_for_the_first()
        running.append(pods.start(1))
        wait_for_step(pods, run, 3)
        running[1].send_signal(signal.SIGTERM)
        assert running[1].wait(WAIT_S) != 0
        running[1] = pods.start(1)
        assert [pod.wait(WAIT_S) for pod in running] == [0, 0], pods.told()
    finally:
        for pod in running:
            kill_tree(pod.pid)
            pod.wait()
    told = [line["event"] for line in read_lines(run / "events.jsonl")]
    assert [event for event in told if event in ("start", "requeue", "resume", "end", "fault")] == [
        *("start", "requeue", "resume", "end")
    ]
    assert [line["step"] for line in read_lines(run / "metrics.jsonl")] == list(range(1, 61))
