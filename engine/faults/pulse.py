"""What this rank is doing: set by the training, looked at by threads."""

from enum import Enum
from typing import NamedTuple


class Phase(str, Enum):
    """Parts of a run. All ranks go through the same ones in the same order."""

    START = "start"  # model, DeepSpeed, an old checkpoint
    DATA = "data-wait"
    MEETING = "collective"  # the small all-reduce that every step begins with
    COMPUTE = "forward/backward"  # with the sums over ranks inside it
    CHECKPOINT = "checkpoint"
    EVALUATION = "evaluation"
    PASS = "pass"
    END = "end"


class Place(NamedTuple):
    """Where a rank is."""

    phase: Phase
    step: int  # optimiser steps done
    entry: int  # phases entered so far: of ranks in lockstep the one with the smaller number is behind
    batches: int  # done inside this phase, where it has some: it does not stand still while they grow
    is_first_step: bool  # of this session


class Pulse:
    """Where this rank is. The training writes it, any thread may read `at`: it is replaced as a whole."""

    def __init__(self) -> None:
        self.at = Place(Phase.START, 0, 0, 0, False)
        self._first_step: int | None = None

    def enter(self, phase: Phase, step: int) -> None:
        """The rank begins another phase, `step` optimiser steps being done."""
        if self._first_step is None:
            self._first_step = step
        self.at = Place(phase, step, self.at.entry + 1, 0, step == self._first_step)

    def beat(self) -> None:
        """A batch of a long phase is done."""
        self.at = self.at._replace(batches=self.at.batches + 1)


class Dwell:
    """How long a rank has been in one place, in the eyes of one who looks every `every_s` seconds.

    Time in which nobody could look, for the whole machine or process stood still, counts as little: a rank
    that was paused for a minute has not hung for a minute.
    """

    def __init__(self, every_s: float) -> None:
        self._most_s = 5 * every_s
        self._place: Place | None = None
        self._looked_s = self.seconds = 0.0
        self._longest_s: dict[Phase, float] = {}

    def look(self, place: Place, now_s: float) -> float:
        """Seconds in this place; now_s is of a clock that never goes back."""
        passed_s, self._looked_s = min(now_s - self._looked_s, self._most_s), now_s
        if place == self._place:
            self.seconds += passed_s
            return self.seconds
        if self._place is not None:
            phase = self._place.phase
            self._longest_s[phase] = max(self.seconds, self.longest_s(phase))
        self._place, self.seconds = place, 0.0
        return 0.0

    def longest_s(self, phase: Phase) -> float:
        """The longest stay in such a phase so far that has ended."""
        return self._longest_s.get(phase, 0.0)
