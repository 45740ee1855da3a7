"""What became of every sample of an epoch: N = trained + substituted + dropped at the end."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ledger:
    """Counts the substitutions of all ranks; the rest follows from the numbers of the run."""

    num_samples: int  # N
    batch_size: int  # B
    # (epoch, position in its order): a place counts once, however many candidates were tried for it, and
    # also when a resumed run comes past it again.
    _places: set[tuple[int, int]] = field(default_factory=set)

    def add(self, substitutions: Iterable[dict[str, Any]]) -> None:
        """Takes note of substitutions with their `epoch` and `position`."""
        self._places |= {(made["epoch"], made["position"]) for made in substitutions}

    def close(self, epoch: int) -> dict[str, int]:
        """The line of a finished epoch, which is then forgotten."""
        substituted = sum(place[0] == epoch for place in self._places)
        self._places = {place for place in self._places if place[0] > epoch}
        dropped = self.num_samples % self.batch_size
        return {
            "epoch": epoch,
            "samples": self.num_samples,
            "trained": self.num_samples - dropped - substituted,
            "substituted": substituted,
            "dropped": dropped,
        }

    def state(self) -> list[list[int]]:
        """JSON-able: the places of epochs that are not finished."""
        return [list(place) for place in sorted(self._places)]

    def load(self, state: list[list[int]]) -> None:
        """Goes on from a `state`."""
        self._places = {(epoch, position) for epoch, position in state}
