"""Laps: parts that follow each other without a gap, the inner ones taken from the outer ones."""

import json
import time
from types import FunctionType

import pytest
import torch
import torch.distributed as dist
from viewmill.engine.spans import Part
from viewmill.tools.doctor.collectives import GRADIENT, STATISTICS, on_stream, timed_collectives
from viewmill.tools.doctor.stopwatch import LOOP, Stopwatch

from tests.support import run_ranks

CPU = torch.device("cpu")


def test_an_inner_part_takes_its_time_from_the_outer_one_and_nothing_is_left_out() -> None:
    watch = Stopwatch(CPU)
    watch.begin()
    with watch(Part.BACKWARD):
        time.sleep(0.02)
        with watch("sums"):
            time.sleep(0.03)
    time.sleep(0.01)
    lap = watch.lap()
    parts = lap.parts()
    assert set(parts) == {LOOP, "backward", "sums"}
    assert parts["backward"] >= 0.02
    assert parts["sums"] >= 0.03
    assert parts[LOOP] >= 0.01
    assert sum(parts.values()) == pytest.approx(lap.wall_s, rel=1e-9)
    assert all(a.end_s == b.begin_s for a, b in zip(lap.segments, lap.segments[1:], strict=False))


def test_a_lap_begins_where_the_one_before_it_ended() -> None:
    watch = Stopwatch(CPU)
    watch.begin()
    with watch(Part.FORWARD):
        pass
    watch.lap()
    assert "forward" not in watch.lap().parts()


class Stream:
    """Of a GPU that is not there; work in it takes the time that `passes` says."""

    device = torch.device("cuda", 0)

    def __init__(self) -> None:
        self.now_ms = 0.0

    def passes(self, ms: float) -> None:
        self.now_ms += ms


class Event:
    """As torch's: of the stream that it is recorded in, or of the current one."""

    current: Stream

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Stream | None = None) -> None:
        self.at_ms = (stream or Event.current).now_ms

    def elapsed_time(self, then: "Event") -> float:
        return then.at_ms - self.at_ms


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[Stream, Stream]:
    """That of the training, and another one."""
    training, other = Stream(), Stream()
    Event.current = training
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: Event.current)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    return training, other


def test_a_gpus_parts_are_those_of_the_trainings_stream_whatever_is_current(
    streams: tuple[Stream, Stream],
) -> None:
    training, other = streams
    watch = Stopwatch(torch.device("cuda", 0))
    other.passes(5000)  # its clock is no matter
    watch.begin()
    with watch(Part.BACKWARD):
        training.passes(20)
        Event.current = other  # as around the gradient sums of ZeRO 3
        with watch(GRADIENT):
            other.passes(70)
        Event.current = training
        training.passes(10)
    assert watch.lap().parts() == pytest.approx({LOOP: 0.0, "backward": 0.03, GRADIENT: 0.0})


def test_on_a_gpu_the_stream_says_what_is_waited_and_nobody_what_is_hidden(
    streams: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _ = streams

    class Work:
        def wait(self) -> None:
            training.passes(30)  # the stream waits; the host goes on

    def all_reduce(tensor: torch.Tensor, async_op: bool = False) -> Work | None:
        if async_op:
            return Work()
        training.passes(40)
        return None

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    watch = Stopwatch(torch.device("cuda", 0))
    with timed_collectives(watch) as traffic:
        watch.begin()
        dist.all_reduce(torch.ones(4))
        work = dist.all_reduce(torch.ones(4), async_op=True)
        training.passes(500)
        work.wait()
        found = on_stream(traffic.as_dict(), watch.lap().parts())
    assert found[STATISTICS] == {"calls": 2, "bytes": 32, "exposed_s": pytest.approx(0.07), "hidden_s": None}
    assert found[GRADIENT]["exposed_s"] == 0.0


def _broadcast() -> None:
    dist.broadcast(torch.zeros(4), src=0)


def _send(rank: int) -> str:
    watch, original = Stopwatch(CPU), dist.all_reduce
    with timed_collectives(watch) as traffic:
        watch.begin()
        with watch(Part.BACKWARD):
            dist.all_reduce(torch.ones(1000))
            work = dist.all_reduce(torch.ones(10), async_op=True)
            time.sleep(0.05)
            work.wait()
        # The caller's module says whose communication it is.
        FunctionType(_broadcast.__code__, {**globals(), "__name__": "deepspeed.comm"})()
        parts = watch.lap().parts()
    assert dist.all_reduce is original
    return json.dumps([parts, traffic.as_dict()])


@pytest.mark.slow
def test_collectives_are_parts_of_their_own_by_their_caller() -> None:
    for told in run_ranks(2, _send):
        parts, traffic = json.loads(told)
        assert {STATISTICS, GRADIENT, "backward"} <= set(parts)
        assert (traffic[STATISTICS]["calls"], traffic[STATISTICS]["bytes"]) == (2, 4040)
        assert (traffic[GRADIENT]["calls"], traffic[GRADIENT]["bytes"]) == (1, 16)
        assert traffic[STATISTICS]["hidden_s"] >= 0.05
        assert parts["backward"] >= 0.05
