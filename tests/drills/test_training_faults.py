"""Trainings that are killed, stopped, starved, spoiled: the cause is named; resumed they end the same."""

import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from viewmill.engine.checkpoints.checkpoint import newest
from viewmill.engine.faults.record import recorded

from tests.drills.job import TIGHT, Ended, Job, Trouble, Whole, drill_config, events, result_of
from tests.engine.small_training import equal
from tests.engine.tiny import metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a job waits long for a busy machine
ENTRIES = 23  # phases that a rank enters in six steps with a checkpoint each, and somewhat less
TOUCHES = (90, 16)  # of checkpoints' files by each rank, and somewhat less


def troubled(whole: Whole, run: Path, trouble: Trouble | None, **settings: Any) -> Ended:
    """A start of the run that may be its first, and to which something happens."""
    return Job(drill_config(**settings), whole.data, run, resume=True, trouble=trouble).end()


def finish(whole: Whole, run: Path) -> None:
    """What a restart does; the run then ends as the uninterrupted one, bit for bit."""
    ended = troubled(whole, run, None)
    assert ended.codes == [0, 0], ended.told
    told = [(event["session"], event["rank"]) for event in events(run, "fault")]
    assert sorted(told) == sorted((fault["session"], fault["rank"]) for fault in recorded(run))
    assert equal(result_of(run), whole.result)
    assert metrics(run) == metrics(whole.run)


def drill(whole: Whole, folder: Path, what: str, seed: int, count: int) -> None:
    """Runs that are hit up to four times each at random moments and then finished, until `count` are done."""
    done = trial = 0
    while done < count:
        rng, run = np.random.default_rng((21, seed, trial)), folder / f"run{trial}"
        for _ in range(min(count - done, int(rng.integers(1, 5)))):
            rank = int(rng.integers(2))
            place = {"touch": int(rng.integers(1, TOUCHES[rank]))}
            if what != "kill" or rng.random() < 0.5:
                place = {"entry": int(rng.integers(1, ENTRIES))}
            ended = troubled(whole, run, Trouble(what, rank, **place))
            if ended.codes[1 - rank] == 0:
                break  # it was through, or nearly, before its moment came
            expect(what, rank, ended, run, "touch" in place)
            done += 1
        finish(whole, run)
        shutil.rmtree(run)
        trial += 1
        assert trial <= 3 * count + 3, "nearly no run lived long enough to be hit"


def expect(what: str, rank: int, ended: Ended, run: Path, by_touch: bool) -> None:
    """How the ranks end, and what the other one says."""
    if what == "term":
        assert ended.codes == [85, 85], ended.told
        assert (run / "requeue.json").is_file()
        return
    assert (ended.codes[rank], ended.codes[1 - rank]) == (-signal.SIGKILL, 1), ended.told
    if by_touch and "its process is gone" not in ended.told[1 - rank]:
        return  # it was looking for the checkpoint to resume from: there are no heartbeats yet
    assert f"error: rank {rank}: its process is gone" in ended.told[1 - rank]
    assert rank in {fault["rank"] for fault in recorded(run)}


def test_killed_at_random_moments_it_ends_in_the_same_weights(whole: Whole, tmp_path: Path) -> None:
    drill(whole, tmp_path, "kill", seed=0, count=3)  # 100 in the soak


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_killed_a_hundred_times_it_ends_in_the_same_weights(whole: Whole, tmp_path: Path) -> None:
    drill(whole, tmp_path, "kill", seed=1, count=100)


def test_sigterm_at_a_random_moment_saves_and_goes_on(whole: Whole, tmp_path: Path) -> None:
    drill(whole, tmp_path, "term", seed=2, count=1)  # 30 in the soak


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_sigterm_at_thirty_random_moments_saves_and_goes_on(whole: Whole, tmp_path: Path) -> None:
    drill(whole, tmp_path, "term", seed=3, count=30)


def test_a_stopped_rank_is_named_by_the_one_that_waits(whole: Whole, tmp_path: Path) -> None:
    settings = drill_config(faults=TIGHT)
    ended = Job(settings, whole.data, tmp_path / "run", trouble=Trouble("stop", entry=9)).end(without={1})
    assert ended.codes[0] == 1
    assert "error: rank 1: no sign of it for" in ended.told[0]
    (fault,) = recorded(tmp_path / "run")
    assert (fault["kind"], fault["rank"], fault["told_by"]) == ("lost rank", 1, [0])
    assert "distributed_c10d.py" in (tmp_path / "run" / "faults" / "rank-0.txt").read_text()


def test_a_hung_data_worker_is_told_by_its_rank_with_its_stack(whole: Whole, tmp_path: Path) -> None:
    ended = troubled(whole, tmp_path / "run", Trouble("hang_a_worker", entry=1), faults=TIGHT)
    assert ended.codes == [1, 1]
    (fault,) = recorded(tmp_path / "run")
    assert (fault["kind"], fault["rank"], fault["phase"]) == ("hung data worker", 1, "data-wait")
    assert "no batch came; a worker or the storage hangs" in ended.told[1]
    stacks = (tmp_path / "run" / "faults" / "rank-1.txt").read_text()
    assert "tests/drills/job.py" in stacks  # where the reading thread is


def test_a_picture_that_is_no_numbers_names_its_rank(whole: Whole, tmp_path: Path) -> None:
    ended = troubled(whole, tmp_path / "run", Trouble("spoil_a_picture", entry=9), nonfinite_limit=1)
    assert ended.codes == [1, 1]
    assert all("is not finite (views of rank 1)" in told for told in ended.told)
    (event,) = events(tmp_path / "run", "skipped_step")
    assert event["where"] == "views of rank 1"
    assert {fault["kind"] for fault in recorded(tmp_path / "run")} == {"non-finite"}
    finish(whole, tmp_path / "run")


def test_a_deleted_shard_is_named_and_once_back_nothing_is_lost(whole: Whole, tmp_path: Path) -> None:
    data = shutil.copytree(whole.data, tmp_path / "data")
    own = whole._replace(data=data)
    views = {"preset": "hydes@32", "executor": "reference", "num_threads": 1, "max_substitutes": 0}
    ended = troubled(own, tmp_path / "run", Trouble("delete_a_shard", entry=1), views=views)
    assert ended.codes == [1, 1]
    (gone,) = data.glob("*.gone")
    fault = recorded(tmp_path / "run")[0]
    assert f"{gone.with_suffix('.tar')}: the shard is gone; put it back" in fault["cause"]
    gone.rename(gone.with_suffix(".tar"))
    finish(own, tmp_path / "run")


def test_a_lost_mount_is_named_as_such_and_not_as_a_bad_sample(whole: Whole, tmp_path: Path) -> None:
    data = shutil.copytree(whole.data, tmp_path / "data")
    own = whole._replace(data=data)
    ended = troubled(own, tmp_path / "run", Trouble("lose_the_mount", entry=1))
    assert ended.codes == [1, 1]
    fault = recorded(tmp_path / "run")[0]
    assert fault["kind"] == "lost data"
    assert f"{data}: none of its" in fault["cause"]
    assert "the mount is lost" in fault["cause"]
    data.with_suffix(".gone").rename(data)
    finish(own, tmp_path / "run")


def test_a_disk_that_fills_up_ends_the_run_and_keeps_its_checkpoints(whole: Whole, small_disk: Path) -> None:
    ended = troubled(whole, small_disk / "run", Trouble("fill_the_disk", entry=12))
    assert ended.codes == [1, 1]
    assert any("No space left on device" in told or "MB are free" in told for told in ended.told)
    (small_disk / "ballast").unlink()
    assert newest(small_disk / "run" / "checkpoints")[0].name >= "step_00000001"
    finish(whole, small_disk / "run")


def test_a_newest_checkpoint_cut_anywhere_is_passed_over(whole: Whole, tmp_path: Path) -> None:
    run = shutil.copytree(whole.run, tmp_path / "run")
    last, _ = newest(run / "checkpoints")
    rng = np.random.default_rng(22)
    for cut in range(20):
        file = sorted(last.iterdir())[int(rng.integers(len(list(last.iterdir()))))]
        kept = file.read_bytes()
        file.write_bytes(kept[: int(rng.integers(len(kept)))])
        path, reasons = newest(run / "checkpoints")
        assert path < last
        assert any(last.name in reason for reason in reasons)
        if cut < 19:
            file.write_bytes(kept)
    finish(whole, run)
    (event,) = events(run, "checkpoint_passed_over")
    assert last.name in event["reason"]


def test_result_of_two_runs_can_differ(whole: Whole) -> None:
    """The comparison of all these drills sees one bit."""
    name = next(iter(whole.result))
    changed = {**whole.result, name: torch.nextafter(whole.result[name], torch.tensor(9.0))}
    assert not equal(changed, whole.result)
