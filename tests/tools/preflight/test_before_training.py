"""Ranks that look at their machines before they train: one store for both, and one answer on all ranks."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from viewmill.engine.world import start_world, stop_world
from viewmill.tools.preflight import before_training, run, versions
from viewmill.tools.preflight.before_training import are_fit, store_of_training
from viewmill.tools.preflight.meeting import Meeting, agreed_round, open_meeting
from viewmill.tools.preflight.options import Options

from tests.tools.preflight.ranks import run_job

pytestmark = pytest.mark.slow


def look_and_train(rank: int, folder: Path, odd_rank: int | None) -> None:
    """Leaves what this rank was told, what rank 0 showed, and a sum over the ranks of the training."""
    if rank == odd_rank:
        found = versions._version
        versions._version = lambda name: "2.0.0" if name == "torch" else found(name)
    told: dict[str, Any] = {"shown": []}
    meeting = open_meeting(60)
    options = Options(out=folder / "run", threads=1)
    told["is_fit"] = are_fit(options, meeting, told["shown"].append)
    if told["is_fit"]:
        told["again"] = started_again(meeting, "another start", options, told["shown"])
        for number in range(2):
            (folder / f"boot{number}").write_text(f"another machine, {number}")
        before_training.BOOT_ID = folder / f"boot{rank}"
        told["elsewhere"] = started_again(meeting, "on other hosts", options, told["shown"])
        before_training.BOOT_ID = folder / f"boot{1 - rank}"
        told["renumbered"] = started_again(meeting, "the same hosts, renumbered", options, told["shown"])
        world = start_world("cpu", store_of_training(meeting))
        total = torch.tensor(float(rank + 1))
        dist.all_reduce(total)
        told["sum"] = float(total)
        stop_world(world)
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def started_again(meeting: Meeting, name: str, options: Options, shown: list[Any]) -> tuple[bool, int]:
    """What the rank is told as one that was started again, and how many reports there are then."""
    again = Meeting(meeting.of_job, meeting.rank, meeting.world_size, meeting.local_rank, name)
    return are_fit(options, again, shown.append), len(shown)


def told_by(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_ranks_look_once_at_a_set_of_hosts_and_go_on_to_train(tmp_path: Path) -> None:
    run_job(2, look_and_train, tmp_path, None)
    first, second = told_by(tmp_path)
    assert first["is_fit"]
    assert second["is_fit"]
    assert first["sum"] == second["sum"] == 3.0
    # Whether they are fit, and the reports so far: other machines are looked at, and these not again.
    starts = ("again", "elsewhere", "renumbered")
    assert [first[start] for start in starts] == [[True, 1], [True, 2], [True, 2]]
    assert [second[start] for start in starts] == [[True, 0]] * 3
    assert {line["check"] for line in first["shown"][0]["verdicts"]} >= {"versions", "disk", "all-reduce"}


def test_all_ranks_are_told_when_one_of_them_is_not_fit(tmp_path: Path) -> None:
    run_job(2, look_and_train, tmp_path, 1)
    first, second = told_by(tmp_path)
    assert not first["is_fit"]
    assert not second["is_fit"]
    bad = [line for line in first["shown"][0]["verdicts"] if line["status"] == "fail"]
    assert [line["check"] for line in bad] == ["versions"]
    assert "2.0.0" in bad[0]["found"]


def names_of_a_start(store: Any, world_size: int) -> list[str]:
    with ThreadPoolExecutor(world_size) as pool:
        asked = [pool.submit(agreed_round, store, rank, world_size, 20.0) for rank in range(world_size)]
        return [one.result() for one in asked]


def test_every_start_has_a_name_of_its_own_on_all_ranks() -> None:
    """Also where a start finds what an earlier one asked and was answered, on fewer ranks or more."""
    store, earlier = dist.HashStore(), set()  # type: ignore[attr-defined]
    for world_size in (3, 4, 2):
        names = names_of_a_start(store, world_size)
        assert len(set(names)) == 1
        assert names[0] not in earlier
        earlier.add(names[0])


def test_a_rank_whose_start_is_not_named_says_who_did_not_answer() -> None:
    with pytest.raises(RuntimeError, match=r"rank 1 waited 0 s for rank 0 to name this start"):
        agreed_round(dist.HashStore(), rank=1, world_size=2, patience_s=0.1)  # type: ignore[attr-defined]


def test_a_machine_that_was_started_anew_or_has_anothers_name_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boots = []
    for boot in ("a", "b"):
        (tmp_path / "boot").write_text(f"{boot}\n")
        monkeypatch.setattr(before_training, "BOOT_ID", tmp_path / "boot")
        boots.append(before_training.machine())
    monkeypatch.setattr(before_training, "BOOT_ID", tmp_path / "none")  # no Linux
    boots.append(before_training.machine())
    assert len(set(boots)) == 3
    assert boots[2] == run.host_name()
