"""What an order is: which sample stands at which position of which epoch, as a pure function."""

from typing import Any, Protocol

import numpy as np


class Order(Protocol):
    """A function of (epoch, position) with no state: any rank may ask for any positions at any time.

    num_samples: positions of an epoch. num_ids: ids lie in [0, num_ids), the data set's number of samples.
    repeats: an id may stand at several positions of one epoch. Its views are then drawn by position, not by
    id, for its copies would be alike otherwise.
    """

    @property
    def num_samples(self) -> int: ...

    @property
    def num_ids(self) -> int: ...

    @property
    def repeats(self) -> bool: ...

    def ids(self, epoch: int, start: int, stop: int) -> np.ndarray:
        """The sample ids at positions [start, stop) of the epoch, int64 (stop - start,).

        Time and memory grow with stop - start alone, but for what is said of an order.

        Raises:
            ValueError: the positions are not inside the epoch, or the epoch is negative.
        """
        ...

    def stand_in(self, sample: int, word: int) -> int:
        """The id that a random word (below 2**64) picks among those that may replace `sample`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain data, equal for equal orders alone; a data position holds it."""
        ...
