"""Where a loader's time goes: per stage seconds, batches, images and bytes, and how full its queue was."""

from dataclasses import asdict, dataclass, replace
from typing import Any

_COUNTS = ("batches", "images", "bytes", "busy_s", "input_wait_s", "room_wait_s", "taken", "found_ready")


@dataclass
class StageStats:
    """What one stage has done since the loader was made, or since `reset_stats`.

    One thread of a stage takes at a time, so each of the two waits is at most the time that has passed.
    """

    name: str  # read, make or copy
    threads: int
    batches: int = 0
    images: int = 0
    bytes: int = 0  # read: of encoded images; make, copy: of views
    busy_s: float = 0.0  # summed over its threads
    input_wait_s: float = 0.0  # for the stage before it
    room_wait_s: float = 0.0  # for the stage after it: back-pressure
    ready: int = 0  # batches that wait in its queue now
    ready_bytes: int = 0
    taken: int = 0  # batches that the next stage has taken from its queue
    found_ready: int = 0  # batches that stood ready whenever one was taken, in total

    @property
    def mean_ready(self) -> float:
        """Batches that stood ready when one was asked for; near 0: the next stage waits for this one."""
        return self.found_ready / self.taken if self.taken else 0.0


@dataclass(frozen=True)
class LoaderStats:
    """The stages in their order, and what the loop saw.

    wait_s is measured on the host, around the hand-over of a batch; no device is waited for.
    """

    stages: tuple[StageStats, ...]
    passed_s: float  # since the loader was made, or since `reset_stats`
    wait_s: float  # in which the loop waited for a batch
    batches: int  # handed to the loop
    substituted: int  # samples replaced by others, of batches made ahead too
    bad_samples: int  # different ones that could not be used

    def as_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        tree = asdict(self)
        for stage, entry in zip(self.stages, tree["stages"], strict=True):
            entry["mean_ready"] = stage.mean_ready
        return tree

    def __str__(self) -> str:
        """One line for a log."""
        share = self.wait_s / self.passed_s if self.passed_s else 0.0
        head = (
            f"{self.batches} batches in {self.passed_s:.1f} s, loop waited {self.wait_s:.2f} s ({share:.1%})"
        )
        return "; ".join([head, *map(_told, self.stages), f"{self.substituted} substituted"])


def since(before: StageStats, now: StageStats) -> StageStats:
    """What has been counted between two moments; the queue is that of the later one."""
    counts = {name: getattr(now, name) - getattr(before, name) for name in _COUNTS}
    return replace(now, **counts)


def _told(stage: StageStats) -> str:
    return (
        f"{stage.name}: {stage.images} images, {stage.bytes / 1e6:.0f} MB, busy {stage.busy_s:.2f} s, waited "
        f"{stage.input_wait_s:.2f} s for input and {stage.room_wait_s:.2f} s for room, "
        f"{stage.mean_ready:.1f} ready"
    )
