"""A long drill: torchrun that starts killed ranks again."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from viewmill.engine.telemetry import read_lines

from tests.drills.job import PATIENCE_S, Whole, events
from tests.tools.launching import PYTHON, SETTINGS, port, shell

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]


def kill_rank_one(run: Path, launcher: "subprocess.Popen[bytes]") -> None:
    """Once there is a checkpoint."""
    until_s = time.monotonic() + PATIENCE_S
    while not (run / "checkpoints" / "latest").exists():
        assert launcher.poll() is None, "it ended before there was a checkpoint"
        assert time.monotonic() < until_s
        time.sleep(0.05)
    os.kill(json.loads((run / "heartbeats" / "rank-1.json").read_text())["pid"], signal.SIGKILL)


def test_torchrun_starts_a_killed_run_again_and_it_ends(whole: Whole, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [*PYTHON, "torch.distributed.run", "--nproc_per_node", "2", "--max-restarts", "2"]
    words += ["--master_port", port(), "-m", "viewmill.tools.cli", "train", "hydes_tiny", "--data"]
    words += [str(whole.data), "--out", str(run), "--resume", *SETTINGS, "epochs=20"]
    words += ["checkpoint.every_steps=1", "checkpoint.every_epochs=null", "faults.heartbeat_s=0.2"]
    launcher = subprocess.Popen(words, env=shell(), stderr=subprocess.DEVNULL)
    try:
        kill_rank_one(run, launcher)
        assert launcher.wait(timeout=4 * PATIENCE_S) == 0
    finally:
        launcher.terminate()
    kinds = [line["event"] for line in read_lines(run / "events.jsonl")]
    assert [kind for kind in kinds if kind in ("start", "fault", "resume", "end")] == [
        "start",
        "fault",
        "resume",
        "end",
    ]
    (fault,) = events(run, "fault")
    assert (fault["what"], fault["rank"]) == ("lost rank", 1)
    assert (run / "export" / "backbone.safetensors").is_file()
