"""Cuts the training thread's time into parts without a gap, on the host's clock or a GPU's stream."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch.profiler import record_function
from viewmill.engine.spans import Part

LOOP = "loop"  # what is no part by name


class Segment(NamedTuple):
    """What was going on, in seconds from the lap's beginning."""

    part: str
    begin_s: float
    end_s: float


class Lap(NamedTuple):
    """A stretch of time: its segments follow one another without a gap, and so add up to `wall_s`."""

    wall_s: float
    segments: list[Segment]

    def parts(self) -> dict[str, float]:
        """Seconds of each part, without those of parts that lie inside it."""
        found: dict[str, float] = defaultdict(float)
        for part, begin_s, end_s in self.segments:
            found[part] += end_s - begin_s
        return dict(found)


class Stopwatch:
    """The spans of a measured run: give it to `train`, and ask for laps.

    A part inside another one takes its time from it. On a GPU the times are those of one stream, that of the
    training, by events: host work that the device does not wait for takes none, and what the stream waits for
    takes all of it. What runs on another stream meanwhile takes none of it either, as the gradient sums of
    ZeRO 3 do until the training waits for them. Names also stand in torch's traces.

    Args:
        device: of the training. Its current stream, when this is made, is the training's.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._stream = torch.cuda.current_stream(device) if self.on_gpu else None
        self._inside: list[str] = []
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []  # what was going on until then

    @contextmanager
    def __call__(self, part: Part | str) -> Iterator[None]:
        """Around a part."""
        name = part.value if isinstance(part, Part) else part
        with record_function(name):
            self._mark()
            self._inside.append(name)
            try:
                yield
            finally:
                self._mark()
                self._inside.pop()

    @property
    def inside(self) -> str:
        """The innermost part that is going on."""
        return self._inside[-1] if self._inside else LOOP

    def begin(self) -> None:
        """A lap begins now; what was measured before it and not asked for is dropped."""
        self._marks.clear()
        self._mark()

    def lap(self) -> Lap:
        """What has passed since the last lap or `begin`; waits for the GPU. The next lap begins."""
        self._mark()
        if self._stream is not None:
            torch.cuda.synchronize(self._stream.device)
        times = [_passed(self._marks[0][1], stamp) for _, stamp in self._marks]
        segments = [
            Segment(name, begin_s, end_s)
            for (name, _), begin_s, end_s in zip(self._marks[1:], times, times[1:], strict=False)
        ]
        self._marks = self._marks[-1:]
        return Lap(times[-1], segments)

    def _mark(self) -> None:
        if self._stream is None:
            self._marks.append((self.inside, time.perf_counter()))
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._stream)  # the current one may be another, around a call of ZeRO 3
        self._marks.append((self.inside, event))


def _passed(first: "float | torch.cuda.Event", then: "float | torch.cuda.Event") -> float:
    """Seconds from one mark to another."""
    if isinstance(first, float) and isinstance(then, float):
        return then - first
    assert isinstance(first, torch.cuda.Event)
    assert isinstance(then, torch.cuda.Event)
    return float(first.elapsed_time(then)) / 1000
