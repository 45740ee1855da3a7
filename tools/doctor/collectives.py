"""What the training sends to other ranks: seconds, bytes and calls of each kind, and what of it is hidden."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from viewmill.tools.doctor.stopwatch import Stopwatch

# Parts of their own in a lap, by who calls.
GRADIENT = "gradient sums"  # DeepSpeed: gradients, and at stages 1 to 3 weights
STATISTICS = "statistics over ranks"  # BatchNorm, the losses' gathers
AGREEMENT = "agreement of ranks"  # flags and figures: whether all have a batch, who stops
KINDS = (GRADIENT, STATISTICS, AGREEMENT)
_FUNCTIONS = (
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_to_all_single",
    "broadcast",
)


@dataclass
class Kind:
    """Sums of one kind of communication."""

    calls: int = 0
    bytes: int = 0  # of the larger side: what is gathered, or reduced
    exposed_s: float = 0.0  # in which the training thread did nothing else; on a GPU see `on_stream`
    hidden_s: float = 0.0  # from the call to the wait for it, in which it computed; on a GPU not known


@dataclass
class Traffic:
    """What was sent since `clear`."""

    kinds: dict[str, Kind] = field(default_factory=lambda: {name: Kind() for name in KINDS})

    def clear(self) -> None:
        self.kinds = {name: Kind() for name in KINDS}

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Plain data, fit for JSON."""
        return {name: asdict(kind) for name, kind in self.kinds.items()}


@contextmanager
def timed_collectives(stopwatch: Stopwatch) -> Iterator[Traffic]:
    """While inside, collectives of torch.distributed are parts of the stopwatch's laps, and counted.

    A collective whose caller goes on at once counts where it is waited for; from the call to that wait it is
    hidden, which is the most that it can have taken. On a GPU a call and its wait only put work into queues,
    so that the host's clock says nothing of either: `on_stream` has what the laps say.
    """
    traffic = Traffic()
    originals = {name: getattr(dist, name) for name in _FUNCTIONS}
    for name, original in originals.items():
        setattr(dist, name, _timed(original, stopwatch, traffic))
    try:
        yield traffic
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def on_stream(
    sent: Mapping[str, Mapping[str, float]], together: Mapping[str, float]
) -> dict[str, dict[str, float | None]]:
    """What `Traffic.as_dict` has of a GPU, with the seconds that the training's stream stood still for it.

    What of a collective ran beside the computing no event of the training's stream tells: hidden_s is None.

    Args:
        together: seconds of each part of a step, see `Lap.parts`.
    """
    return {
        kind: {**counts, "exposed_s": together.get(kind, 0.0), "hidden_s": None}
        for kind, counts in sent.items()
    }


def _timed(original: Callable[..., Any], stopwatch: Stopwatch, traffic: Traffic) -> Callable[..., Any]:
    def collective(*args: Any, **named: Any) -> Any:
        kind = _kind_of(sys._getframe(1).f_globals.get("__name__", ""))
        counts, began_s = traffic.kinds[kind], time.perf_counter()
        with stopwatch(kind):
            work = original(*args, **named)
        counts.calls += 1
        counts.bytes += _bytes_of([*args, *named.values()])
        if not stopwatch.on_gpu:
            counts.exposed_s += time.perf_counter() - began_s
        if work is None or not named.get("async_op"):
            return work
        return _Waited(work, kind, stopwatch, traffic)

    return collective


class _Waited:
    """A collective that is under way; all but waiting is the original's."""

    def __init__(self, work: Any, kind: str, stopwatch: Stopwatch, traffic: Traffic) -> None:
        self._work, self._kind, self._stopwatch, self._traffic = work, kind, stopwatch, traffic
        self._issued_s = time.perf_counter()

    def wait(self, *args: Any, **named: Any) -> Any:
        began_s, counts = time.perf_counter(), self._traffic.kinds[self._kind]
        with self._stopwatch(self._kind):
            result = self._work.wait(*args, **named)
        if not self._stopwatch.on_gpu:
            counts.hidden_s += began_s - self._issued_s
            counts.exposed_s += time.perf_counter() - began_s
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _kind_of(module: str) -> str:
    if module.startswith("deepspeed"):
        return GRADIENT
    return AGREEMENT if module == "viewmill.engine.agreement" else STATISTICS


def _bytes_of(arguments: list[Any]) -> int:
    """Of the largest tensor, or list of tensors, among the arguments: of two sides the gathered one."""
    sizes = [0]
    for argument in arguments:
        tensors = argument if isinstance(argument, list | tuple) else [argument]
        sizes.append(sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor)))
    return max(sizes)
