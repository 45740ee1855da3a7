"""An hour of training that meets fifteen faults, beside one that meets none: the same weights in the end.

`make soak PART=hour`. Two ranks train timm's smallest ResNet by HyDeS, with a checkpoint every 100 steps that
is written behind the training; every session but the last ends by a fault, after its fifteenth of the way or
so. What a hand has to mend (a lost shard, a lost mount, a full disk) is mended, and the same command goes on.
The undisturbed run trains at the same time. VIEWMILL_HOUR_STEPS sets how long: the default takes an hour on
two cores.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.faults.record import recorded
from viewmill.engine.telemetry import read_lines
from viewmill.shards.convert import convert

from tests.drills.job import Ended, Job, Trouble, drill_config, result_of
from tests.engine.small_training import equal
from tests.engine.tiny import metrics, tiny_data_set

pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]
STEPS = int(os.environ.get("VIEWMILL_HOUR_STEPS", "9000"))
EVERY = 100  # steps from one checkpoint to the next
PHASES, TOUCHES = 3, 14  # of a step; of a checkpoint's files, by each rank: somewhat less than there are
PATIENCE_S = 3 * 3600.0
# Shorter than by default, so that an hour holds fifteen faults. On a new machine the first batch is compiled,
# twice at once: that is no hang.
LIMITS = {"heartbeat_s": 0.5, "silent_s": 45.0, "hang_s": 90.0}


class Fault(NamedTuple):
    """What happens, how a rank that lives says so, and whether it comes at the start of a session."""

    what: str
    told: str
    is_early: bool = False
    is_while_saving: bool = False
    cuts_the_newest: bool = False


KILL, GONE = "kill", "its process is gone"
FAULTS = (
    Fault(KILL, GONE),
    Fault("spoil_a_picture", "is not finite (views of rank"),
    Fault(KILL, GONE, is_while_saving=True),
    Fault("term", "SIGTERM"),
    Fault("hang_a_worker", "no batch came", is_early=True),
    Fault(KILL, GONE, cuts_the_newest=True),
    Fault("stop", "no sign of it for"),
    Fault("delete_a_shard", "the shard is gone; put it back", is_early=True),
    Fault(KILL, GONE, is_while_saving=True),
    Fault("fill_the_disk", ""),
    Fault("term", "SIGTERM"),
    Fault("lose_the_mount", "the mount is lost", is_early=True),
    Fault(KILL, GONE),
    Fault("stop", "no sign of it for"),
    Fault("spoil_a_picture", "is not finite (views of rank"),
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own in memory, so that it can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system is not permitted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def settings(**changes: Any) -> dict[str, Any]:
    views = {"preset": "hydes@32", "executor": "host", "num_threads": 1, "max_substitutes": 0}
    checkpoint = {"every_steps": EVERY, "every_epochs": None}
    log = {"every_steps": 50, "tensorboard": True}
    size = {"epochs": -(-STEPS // 8), "max_steps": STEPS, "batch_size": 32}  # 8 steps an epoch
    return {**size, "views": views, "checkpoint": checkpoint, "log": log, "faults": LIMITS, **changes}


def trouble_of(number: int) -> Trouble:
    """The fault of a session, at a random moment of the last third of its share of the steps."""
    fault, rng = FAULTS[number], np.random.default_rng((24, number))
    rank, share = int(rng.integers(2)), STEPS // (len(FAULTS) + 1)
    if fault.is_early:
        return Trouble(fault.what, rank, entry=1)
    if fault.is_while_saving:
        return Trouble(fault.what, rank, touch=int(rng.integers(1, max(2, TOUCHES * share // EVERY))))
    return Trouble(fault.what, rank, entry=int(PHASES * share * rng.uniform(0.67, 1.0)))


def expect(fault: Fault, rank: int, ended: Ended) -> None:
    """How the rank ends that lives, and what it says."""
    code = ended.codes[1 - rank]
    assert code == (85 if fault.what == "term" else 1), (fault, ended)
    if fault.what == "fill_the_disk":
        assert any("No space left on device" in told or "MB are free" in told for told in ended.told), ended
    elif not fault.is_while_saving:  # then it may yet have been looking for the checkpoint to resume from
        assert any(fault.told in told for told in ended.told), (fault, ended)


def mend(fault: Fault, data: Path, run: Path) -> None:
    """What a hand does before it starts the run again."""
    for gone in [*data.glob("*.gone")]:
        gone.rename(gone.with_suffix(".tar"))
    if data.with_suffix(".gone").exists():
        data.with_suffix(".gone").rename(data)
    (run.parent / "ballast").unlink(missing_ok=True)
    if fault.cuts_the_newest:
        path, _ = newest(run / "checkpoints")
        largest = max(path.iterdir(), key=lambda file: file.stat().st_size)
        os.truncate(largest, largest.stat().st_size // 2)


def test_an_hour_with_fifteen_faults_ends_in_the_same_weights(disk: Path, tmp_path: Path) -> None:
    tiny_data_set(tmp_path, count=260)
    data, run = tmp_path / "shards", disk / "rough"
    convert(tmp_path / "pictures", data, workers=1, shard_bytes=600_000)
    shutil.copytree(data, tmp_path / "own")
    calm = Job(drill_config(**settings()), data, tmp_path / "calm")
    began_s, options = time.monotonic(), settings(nonfinite_limit=1)
    for number, fault in enumerate(FAULTS):
        trouble = trouble_of(number)
        job = Job(drill_config(**options), tmp_path / "own", run, resume=True, trouble=trouble)
        stopped = {trouble.rank} if fault.what == "stop" else set()
        expect(fault, trouble.rank, job.end(without=stopped, patience_s=PATIENCE_S))
        mend(fault, tmp_path / "own", run)
        print(f"{time.monotonic() - began_s:6.0f} s  fault {number + 1}: {fault.what}, rank {trouble.rank}")
    ended = Job(drill_config(**options), tmp_path / "own", run, resume=True).end(patience_s=PATIENCE_S)
    assert ended.codes == [0, 0], ended.told
    undisturbed = calm.end(patience_s=PATIENCE_S)
    assert undisturbed.codes == [0, 0], undisturbed.told
    print(f"{time.monotonic() - began_s:6.0f} s  {STEPS} steps, {len(recorded(run))} faults in the summary")
    assert equal(result_of(run), result_of(tmp_path / "calm"))
    assert metrics(run) == metrics(tmp_path / "calm")
    passed = [line for line in read_lines(run / "events.jsonl") if line["event"] == "checkpoint_passed_over"]
    assert len(passed) >= 1
