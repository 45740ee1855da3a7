"""Alarms: what a method finds wrong at several logged steps in a row becomes an event."""

from collections.abc import Mapping
from typing import NamedTuple

# Logged steps in a row that show a collapse. A network that has just begun looks like one.
PATIENCE = 5


class Alarm(NamedTuple):
    """An event to write: `alarm` with its message, or `alarm_over`."""

    event: str
    name: str
    message: str


class Sentinels:
    """Counts how long each complaint has lasted; each is told once when it is lasting, and once when it ends.

    It is no state of the run: after a resume the counting begins anew, and no training depends on it.
    """

    def __init__(self) -> None:
        self._lasting: dict[str, int] = {}

    def judge(self, complaints: Mapping[str, str]) -> list[Alarm]:
        """The events of one logged step; `complaints`: name -> what is wrong and what is likely to help."""
        over = [name for name in self._lasting if name not in complaints]
        events = [
            Alarm("alarm_over", name, "the figures are good again")
            for name in over
            if self._lasting[name] >= PATIENCE
        ]
        for name in over:
            del self._lasting[name]
        for name, message in complaints.items():
            self._lasting[name] = self._lasting.get(name, 0) + 1
            if self._lasting[name] == PATIENCE:
                events.append(Alarm("alarm", name, message))
        return events
