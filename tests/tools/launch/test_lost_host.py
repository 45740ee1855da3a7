"""A lost host among the faults of a run: the ranks that it had, where they were last."""

import json
import os
from pathlib import Path

from viewmill.engine.faults.record import recorded
from viewmill.tools.launch.lost_host import record_lost


def beat(run: Path, rank: int, at_ns: int) -> None:
    told = {"session": "s1", "rank": rank, "host": "a-name-of-its-own", "step": 7, "phase": "collective"}
    path = run / "heartbeats" / f"rank-{rank}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    os.utime(path, ns=(at_ns, at_ns))


def test_each_rank_of_the_host_has_a_fault(tmp_path: Path) -> None:
    for rank in range(4):
        beat(tmp_path, rank, at_ns=1000)
    record_lost(tmp_path, ["h1", "h2"], "h2", "Timeout, server h2 not responding.", since_ns=1000)
    faults = recorded(tmp_path)
    assert [(fault["rank"], fault["host"], fault["step"]) for fault in faults] == [(2, "h2", 7), (3, "h2", 7)]
    assert {fault["kind"] for fault in faults} == {"lost host"}
    assert {fault["session"] for fault in faults} == {"s1"}


def test_heartbeats_of_an_earlier_start_are_not_of_this_one(tmp_path: Path) -> None:
    for rank in range(2):
        beat(tmp_path, rank, at_ns=999)
    record_lost(tmp_path, ["h1", "h2"], "h1", "gone", since_ns=1000)
    assert recorded(tmp_path) == []
