"""What a pass over a data set adds up: the interface of every accumulator, and the sums that they share."""

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import all_sum

COUNT = "count"  # the name under which a state keeps the number of samples


class Accumulator(Protocol):
    """Adds up rows of samples; ranks may add any numbers of them, also none.

    `update` and the states are of this rank alone and communicate nothing. What is computed from the sums
    covers the samples of all ranks after `pool`, and this rank's own before it or after an update.
    """

    def update(self, rows: Tensor, /) -> None:
        """Adds samples: (n, ...), n >= 0. Raises ValueError for another shape or numbers not finite."""
        ...

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        ...

    @property
    def count(self) -> int:
        """Samples that the statistics are of."""
        ...

    def settings(self) -> dict[str, Any]:
        """JSON-able: all that sums depend on beside the rows. Sums of other settings do not add up."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from a state. Raises ValueError for one of other settings."""
        ...

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state beside its own, of another rank or part of a pass. Raises ValueError as above."""
        ...


@runtime_checkable
class SampleAccumulator(Accumulator, Protocol):
    """One that wants to know which samples the rows are of."""

    def of_samples(self, ids: np.ndarray, /) -> None:
        """The ids (n,) of the rows of the next `update`."""
        ...


class Sums:
    """Named float64 sums over samples and their count: this rank's own, and those pooled over ranks.

    Args:
        owner: whose sums they are, for errors.
        shapes: of every sum, by name.
    """

    def __init__(self, owner: str, shapes: dict[str, tuple[int, ...]]) -> None:
        self._owner = owner
        self._own = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        self._own[COUNT] = torch.zeros((), dtype=torch.float64)
        self._pooled = self._own

    @torch.no_grad()
    def add(self, count: int, **terms: Tensor) -> None:
        """Adds the terms of `count` samples to the sums of their names; statistics are this rank's again."""
        for name, term in terms.items():
            self._own[name] = self._own[name].to(term.device).add_(term)
        self._own[COUNT] += count
        self._pooled = self._own

    def pool(self, group: ProcessGroup | None = None, *, but: Collection[str] = ()) -> None:
        """Takes in the sums of the other ranks; all of them call it. The sums `but` stay this rank's own.

        On the host: a rank without samples does not know on which device the others have theirs.
        """
        self._pooled = {
            name: total if name in but else all_sum(total.cpu().clone(), group)
            for name, total in self._own.items()
        }

    def __getitem__(self, name: str) -> Tensor:
        """A sum: pooled after `pool`, else this rank's own."""
        return self._pooled[name]

    @property
    def count(self) -> int:
        return int(self._pooled[COUNT])

    def mean(self, name: str) -> Tensor:
        """A sum divided by the samples.

        Raises:
            ValueError: there are none.
        """
        if not self.count:
            raise ValueError(f"{self._owner}: no samples were added, so there is no mean")
        return self._pooled[name] / self.count

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums, on the host."""
        return {name: total.cpu().clone() for name, total in self._own.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from these sums.

        Raises:
            ValueError: other names, shapes or types; says which.
        """
        expected = {name: tuple(total.shape) for name, total in self._own.items()}
        found = {name: tuple(total.shape) for name, total in state.items()}
        if found != expected or any(total.dtype != torch.float64 for total in state.values()):
            raise ValueError(f"{self._owner}: its state has float64 sums {expected}, got {found}")
        self._own = self._pooled = {name: total.clone() for name, total in state.items()}

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Add the sums of a state. Raises ValueError as `load_state_dict`."""
        own = self.state_dict()
        self.load_state_dict(state)
        self._own = self._pooled = {name: total + own[name] for name, total in self._own.items()}


def check_rows(rows: Tensor, width: int, what: str) -> None:
    """Refuses rows that are not (n, width), or not finite: one such number would spoil the sums for good.

    Raises:
        ValueError: says what the rows are.
    """
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{what} must be (n, {width}), got {tuple(rows.shape)}")
    if not torch.isfinite(rows).all():
        raise ValueError(f"{what} are not finite: they would spoil the sums over the data set")
