"""Long drills: torchrun that starts killed ranks again, and one run that meets fifteen faults."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from viewmill.engine.telemetry import read_lines

from tests.drills.job import PATIENCE_S, TIGHT, Job, Trouble, drill_config, result_of
from tests.drills.test_training_faults import Whole, events
from tests.drills.test_training_faults import whole as whole
from tests.engine.small_training import equal
from tests.engine.tiny import metrics
from tests.tools.test_launchers import JOB, PYTHON, SETTINGS, port

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]
EPOCHS = 40  # of three steps each
# Those that need no hand to mend them.
FAULTS = ("kill", "kill", "term", "stop", "spoil_a_picture")


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
    clean = {name: value for name, value in os.environ.items() if name not in JOB}
    clean |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    launcher = subprocess.Popen(words, env=clean, stderr=subprocess.DEVNULL)
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


def test_a_run_that_meets_fifteen_faults_ends_in_the_same_weights(whole: Whole, tmp_path: Path) -> None:
    settings = {"epochs": EPOCHS, "checkpoint": {"every_steps": 4, "every_epochs": None}}
    for name in ("calm", "rough"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    calm = Job(drill_config(**settings), whole.data, tmp_path / "calm").end()
    assert calm.codes == [0, 0], calm.told
    rough, met = tmp_path / "rough", 0
    for number in range(15):
        rng = np.random.default_rng((23, number))
        rank = int(rng.integers(2))
        trouble = Trouble(FAULTS[number % len(FAULTS)], rank, entry=int(rng.integers(14, 34)))
        options = {**settings, "faults": TIGHT, "nonfinite_limit": 1}
        stopped = {rank} if trouble.what == "stop" else set()
        job = Job(drill_config(**options), whole.data, rough, resume=True, trouble=trouble)
        ended = job.end(without=stopped)
        assert ended.codes[1 - rank] in (1, 85), ended.told
        met += 1
    assert met == 15
    ended = Job(drill_config(**settings), whole.data, rough, resume=True).end()
    assert ended.codes == [0, 0], ended.told
    assert equal(result_of(rough), result_of(tmp_path / "calm"))
    assert metrics(rough) == metrics(tmp_path / "calm")
