"""An input as the plan knows it, which is all that a worker needs of it."""

from typing import NamedTuple

from viewmill.shards.sources.inputs import Place


class PlannedImage(NamedTuple):
    """An input with its place in the source and in the plan."""

    source: str
    key: str
    label: int
    place: Place

    @property
    def size(self) -> int:
        """Bytes in the source."""
        return self.place.size
