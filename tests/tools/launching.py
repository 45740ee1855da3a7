"""A tiny training as people start it: its settings, and launchers as from a shell without a job."""

import os
import socket
import subprocess
import sys

# Of seconds: the smallest views that a ResNet takes, by timm's smallest.
SETTINGS = ["epochs=1", "batch_size=8", "views.preset=hydes@32", "views.num_threads=1", "torch_threads=1"]
SETTINGS += ["method.projector.hidden=16", "method.projector.dim=8", "model.backbone=test_resnet"]
SETTINGS += ["log.tensorboard=false"]
JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
PYTHON = [sys.executable, "-m"]


def port() -> str:
    """A free port, so that runs of one machine do not meet."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def shell(**variables: str) -> dict[str, str]:
    """The variables of a shell without a job, these on top."""
    clean = {name: value for name, value in os.environ.items() if name not in JOB}
    return {**clean, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **variables}


def launch(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as from a shell without a job, and waits."""
    return subprocess.run(
        command, env=shell(**variables), capture_output=True, text=True, check=False, timeout=240
    )
