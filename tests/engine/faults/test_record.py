"""What stands in RUN/heartbeats and RUN/faults."""

import os
import subprocess
from pathlib import Path

import torch
from viewmill.engine.agreement import RankError
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.faults.causes import is_fault, is_of_a_peer, kind_of
from viewmill.engine.faults.heartbeat import file_of, has_ended, new_session, peers_of, write_heartbeat
from viewmill.engine.faults.pulse import Phase, Pulse
from viewmill.engine.faults.record import Fault, dump_stacks, merge, record, recorded
from viewmill.engine.nonfinite import first_place
from viewmill.engine.preemption import Requeue

FAULT = Fault("a", "lost rank", 1, "node1", 7, "collective", "rank 1: no sign", 0, "2026-01-01T00:00:09Z")


def test_ranks_see_each_others_heartbeats_and_their_age(tmp_path: Path) -> None:
    session, pulse = new_session(tmp_path), Pulse()
    pulse.enter(Phase.MEETING, step=3)
    for rank in (0, 1):
        write_heartbeat(tmp_path, session, rank, pulse.at)
    now_s = file_of(tmp_path, 0).stat().st_mtime
    os.utime(file_of(tmp_path, 1), (now_s - 50, now_s - 50))
    (peer,) = peers_of(tmp_path, session, rank=0, world_size=3)  # the third has not begun
    assert (peer.rank, peer.pid, peer.step, peer.phase, peer.entry) == (1, os.getpid(), 3, "collective", 1)
    assert 49 < peer.silent_s < 51
    assert not peer.is_gone


def test_heartbeats_of_an_earlier_start_do_not_count(tmp_path: Path) -> None:
    for rank in (0, 1):
        write_heartbeat(tmp_path, "earlier", rank, Pulse().at)
    write_heartbeat(tmp_path, "now", 0, Pulse().at)
    assert peers_of(tmp_path, "now", rank=0, world_size=2) == []


def test_a_process_that_has_ended_is_known_to_have() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert has_ended(process.pid)
    assert not has_ended(os.getpid())


def test_a_fault_that_several_tell_stands_once_in_the_words_of_its_rank() -> None:
    own = FAULT._replace(
        kind="hung data worker", cause="no batch came", told_by=1, time="2026-01-01T00:00:10Z"
    )
    third = FAULT._replace(told_by=2)
    (line,) = merge([FAULT, own, third])
    assert (line["kind"], line["cause"], line["told_by"]) == ("hung data worker", "no batch came", [0, 1, 2])
    assert line["time"] == FAULT.time


def test_faults_of_several_starts_stay_apart_and_in_order() -> None:
    later = FAULT._replace(session="b", time="2026-01-02T00:00:00Z")
    assert [line["session"] for line in merge([later, FAULT])] == ["a", "b"]


def test_what_is_recorded_can_be_read_again(tmp_path: Path) -> None:
    assert recorded(tmp_path) == []
    record(tmp_path, [FAULT])
    record(tmp_path, [FAULT._replace(told_by=2, rank=2)])
    assert [(line["rank"], line["told_by"]) for line in recorded(tmp_path)] == [(1, [0]), (2, [2])]
    assert not list(tmp_path.glob("faults/.*"))


def test_a_line_that_a_full_disk_cut_short_spoils_no_other(tmp_path: Path) -> None:
    record(tmp_path, [FAULT])
    with (tmp_path / "faults" / "rank-0.jsonl").open("a") as file:
        file.write('{"session": "b", "ki')
    record(tmp_path, [FAULT._replace(session="c")])
    assert [line["session"] for line in recorded(tmp_path)] == ["a", "c"]


def test_a_number_that_is_none_is_told_where_it_came_in() -> None:
    assert first_place([(True, False), (False, False)]) == "views of rank 1"
    assert first_place([(True, False), (True, True)]) == "embeddings of rank 0"
    assert first_place([(True, True)]) == "views and embeddings are finite"


def test_the_stacks_of_all_threads_are_kept(tmp_path: Path) -> None:
    text = dump_stacks(tmp_path, 3, "it hangs").read_text()
    assert text.splitlines()[0].endswith("it hangs")
    assert "test_the_stacks_of_all_threads_are_kept" in text


def test_a_full_disk_behind_a_checkpoints_error_is_found() -> None:
    error = CheckpointError("no")
    error.__cause__ = OSError(28, "No space left on device")
    assert kind_of(error) == "full disk"
    assert kind_of(CheckpointError("other")) == "checkpoint"
    assert kind_of(torch.OutOfMemoryError()) == "memory"


def test_a_signal_is_no_fault_and_an_error_of_a_rank_names_it() -> None:
    assert not is_fault(Requeue("SIGTERM", 3, Path("run")))
    assert not is_fault(KeyboardInterrupt())
    assert is_fault(RankError(2, "gone"))
    assert RankError(2, "gone").rank == 2


def test_an_error_of_gloo_is_of_a_peer_and_one_of_a_shape_is_not() -> None:
    assert is_of_a_peer(RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer"))
    assert not is_of_a_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_of_a_peer(RankError(1, "gloo: connection closed by peer"))
