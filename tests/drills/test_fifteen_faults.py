"""An hour of training that meets fifteen faults of every kind ends in the weights of one that meets none.

`make soak PART=fifteen_faults`; VIEWMILL_SOAK_STEPS says how many steps, 96 at least, which take a few
minutes; 6,500 took 72 minutes on one core. The two train at the same time. Whatever ended a start of the run,
the next one goes on from the newest checkpoint that verifies.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.config import RunConfig

from tests.drills.job import (
    PATIENCE_S,
    Ended,
    Job,
    Trouble,
    drill_config,
    events,
    mount_small_disk,
    result_of,
    shards,
)
from tests.engine.small_training import equal
from tests.engine.tiny import metrics

STEPS = int(os.environ.get("VIEWMILL_SOAK_STEPS", "6500"))
pytestmark = [pytest.mark.soak, pytest.mark.timeout(4 * 3600)]
EPOCH = 16  # steps
# "saving": killed while a checkpoint is written; "cut": the newest checkpoint has lost its end. The others
# are names of job.py.
FAULTS = (
    "kill", "saving", "term", "cut", "stop", "spoil_a_picture", "delete_a_shard", "saving", "hang_a_worker",
    "fill_the_disk", "lose_the_mount", "kill", "term", "stop", "cut",
)  # fmt: skip
# What these find before a step is done: what is open stays readable without its name.
AT_THE_START = ("delete_a_shard", "lose_the_mount")
# Sooner than by default, and in no hurry: at first both runs compile, which is no hang.
LIMITS = {"heartbeat_s": 0.5, "silent_s": 30.0, "hang_s": 60.0}
TOUCHES = (15, 3)  # of a checkpoint's files by each rank, and somewhat less


class Rough(NamedTuple):
    """The run that meets the faults."""

    data: Path
    run: Path
    steps: int

    @property
    def config(self) -> RunConfig:
        return config_of(self.steps, faults=LIMITS)

    @property
    def patience_s(self) -> float:
        return PATIENCE_S + self.steps  # a second a step: no honest one takes so long


def config_of(steps: int, **changes: Any) -> RunConfig:
    """A checkpoint four times between two faults; no substitute and no skipped step is forgiven."""
    return drill_config(
        epochs=-(-steps // EPOCH),
        max_steps=steps,
        checkpoint={"every_steps": max(2, steps // 64), "every_epochs": None},
        log={"every_steps": max(1, steps // 500), "tensorboard": False},
        views={"preset": "hydes@32", "executor": "host", "num_threads": 1, "max_substitutes": 0},
        nonfinite_limit=1,
        **changes,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of its own, which can be filled; None: that is not permitted here."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount_small_disk(folder):
        yield None
        return
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def trouble_of(what: str, number: int, steps: int) -> Trouble:
    """When it comes: after a share of the steps that leaves some for all others."""
    rng = np.random.default_rng((23, number))
    rank, third = int(rng.integers(2)), steps // len(FAULTS)  # a step enters three phases
    if what in AT_THE_START:
        return Trouble(what, rank, entry=1)
    entry = int(rng.integers(2 * third, 3 * third))
    if what == "saving":
        return Trouble("kill", rank, entry, touch=int(rng.integers(1, TOUCHES[rank])))
    return Trouble(what, rank, entry)


def meet(rough: Rough, what: str, number: int) -> str:
    """One fault, and what mends it; how the ranks ended."""
    if what == "cut":
        return cut_newest(rough.run, number)
    trouble = trouble_of(what, number, rough.steps)
    stopped = {trouble.rank} if what == "stop" else set()
    job = Job(rough.config, rough.data, rough.run, resume=True, trouble=trouble)
    ended = job.end(without=stopped, patience_s=rough.patience_s)
    mend(rough, what)
    expect(what, trouble.rank, ended)
    return f"rank {trouble.rank}, {ended.codes}, {ended.seconds:.0f} s"


def mend(rough: Rough, what: str) -> None:
    if what == "delete_a_shard":
        (gone,) = rough.data.glob("*.gone")
        gone.rename(gone.with_suffix(".tar"))
    if what == "lose_the_mount":
        rough.data.with_suffix(".gone").rename(rough.data)
    if what == "fill_the_disk":
        (rough.run.parent / "ballast").unlink()


def expect(what: str, rank: int, ended: Ended) -> None:
    killed = what in ("kill", "saving", "stop")
    assert ended.codes[1 - rank] == (85 if what == "term" else 1), (what, ended)
    if killed:
        assert ended.codes[rank] in (-signal.SIGKILL, None), (what, ended)
    else:
        assert ended.codes[rank] == ended.codes[1 - rank], (what, ended)


def cut_newest(run: Path, number: int) -> str:
    """Its newest checkpoint loses the end of a file."""
    rng = np.random.default_rng((24, number))
    last, _ = newest(run / "checkpoints")
    file = sorted(last.iterdir())[int(rng.integers(len(list(last.iterdir()))))]
    os.truncate(file, int(rng.integers(file.stat().st_size)))
    path, _ = newest(run / "checkpoints")
    assert path.name < last.name
    return f"{last.name}/{file.name}"


def test_a_run_that_meets_fifteen_faults_ends_in_the_same_weights(tmp_path: Path, disk: Path | None) -> None:
    assert STEPS >= 96, "fewer leave no step between two faults"
    data, calm = shards(tmp_path, count=8 * EPOCH + 3), tmp_path / "calm"
    undisturbed = Job(config_of(STEPS), data, calm)
    own = shutil.copytree(data, tmp_path / "own")  # shards of it will be missing
    rough = Rough(own, (disk or tmp_path) / "rough", STEPS)
    faults = [what for what in FAULTS if disk is not None or what != "fill_the_disk"]
    for number, what in enumerate(faults):
        how = meet(rough, what, number)
        print(f"  {number + 1:2d} {what:16s} {how}; newest: {newest(rough.run / 'checkpoints')[0].name}")
    ended = Job(rough.config, own, rough.run, resume=True).end(patience_s=rough.patience_s)
    assert ended.codes == [0, 0], ended.told
    print(f"  the rest: {ended.seconds:.0f} s" + ("" if disk else "; no small disk can be mounted here"))
    ended = undisturbed.end(patience_s=PATIENCE_S + 2 * STEPS)
    assert ended.codes == [0, 0], ended.told
    print(f"  {STEPS} steps without a fault: {ended.seconds:.0f} s")
    told = {event["what"] for event in events(rough.run, "fault")}
    assert {"lost rank", "non-finite", "hung data worker", "lost data"} <= told
    assert len(events(rough.run, "checkpoint_passed_over")) >= faults.count("cut")
    assert equal(result_of(rough.run), result_of(calm))
    assert metrics(rough.run) == metrics(calm)
