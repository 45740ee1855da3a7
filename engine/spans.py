"""The parts of a step by name, told to whoever measures a run; a run that nobody measures tells nobody."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum


class Part(str, Enum):
    """What the training thread does, one after the other; what is none of these is the loop's own."""

    DATA = "wait for data"
    MEETING = "wait for ranks"  # the small all-reduce that every step begins with
    COPY = "copy to device"  # of views that the loader has not brought there itself
    TEACHER = "teacher"  # its forward and the targets; a method without one has none
    FORWARD = "forward"
    LOSS = "loss"  # with its gradient with respect to the embeddings
    BACKWARD = "backward"  # with several micro-batches also their second forwards
    OPTIMISER = "optimiser"  # and the teacher that follows
    LOGGING = "logging"
    CHECKPOINT = "checkpoint"  # what training waits for, not what is written behind it


# Gives what stands around the part. Every rank enters the same parts in the same order.
Spans = Callable[[Part], AbstractContextManager[object]]

_NOTHING = nullcontext()


def unmeasured(part: Part) -> AbstractContextManager[object]:
    """The spans of a run that nobody measures."""
    return _NOTHING
