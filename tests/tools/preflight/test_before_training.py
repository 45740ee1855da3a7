"""Ranks that look at their machines before they train: one store for both, and one answer on all ranks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from viewmill.engine.world import start_world, stop_world
from viewmill.tools.preflight import versions
from viewmill.tools.preflight.before_training import are_fit, store_of_training
from viewmill.tools.preflight.meeting import open_meeting
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
    told["again"] = told["is_fit"] and are_fit(options, meeting, told["shown"].append)
    if told["is_fit"]:
        world = start_world("cpu", store_of_training(meeting))
        total = torch.tensor(float(rank + 1))
        dist.all_reduce(total)
        told["sum"] = float(total)
        stop_world(world)
    (folder / f"{rank}.json").write_text(json.dumps(told), encoding="utf-8")


def told_by(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]


def test_ranks_that_are_fit_go_on_to_train_and_look_once(tmp_path: Path) -> None:
    run_job(2, look_and_train, tmp_path, None)
    first, second = told_by(tmp_path)
    assert first["is_fit"]
    assert second["is_fit"]
    assert first["sum"] == second["sum"] == 3.0
    assert len(first["shown"]) == 1  # the second look found that they had been fit
    assert second["shown"] == []
    assert {line["check"] for line in first["shown"][0]["verdicts"]} >= {"versions", "disk", "all-reduce"}


def test_all_ranks_are_told_when_one_of_them_is_not_fit(tmp_path: Path) -> None:
    run_job(2, look_and_train, tmp_path, 1)
    first, second = told_by(tmp_path)
    assert not first["is_fit"]
    assert not second["is_fit"]
    bad = [line for line in first["shown"][0]["verdicts"] if line["status"] == "fail"]
    assert [line["check"] for line in bad] == ["versions"]
    assert "2.0.0" in bad[0]["found"]
