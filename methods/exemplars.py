"""Which samples of a data set stand for a unit, and rows of chosen samples: sums that know their samples."""

# n samples of this rank, D scores of a sample, k exemplars of a score, S chosen samples

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums, check_rows
from viewmill.methods.collectives import all_gather_rows, all_sum

NOBODY = -1  # the id where there are fewer samples than places


class Exemplars:
    """The k samples of the largest score in every dimension: `SampleAccumulator`.

    Of equal scores the smaller id is taken, so it is the same for any order of the
    samples and any number of ranks.

    Args:
        dim: D.
        keep: k.

    Raises:
        ValueError: one of them below 1.
    """

    def __init__(self, dim: int, keep: int) -> None:
        if min(dim, keep) < 1:
            raise ValueError(f"need dim and keep >= 1, got {dim} and {keep}")
        self.dim, self.keep = dim, keep
        self._next: Tensor | None = None
        self._own = self._pooled = {
            "scores": torch.full((keep, dim), -torch.inf, dtype=torch.float64),
            "ids": torch.full((keep, dim), NOBODY, dtype=torch.int64),
            "count": torch.zeros((), dtype=torch.int64),
        }

    def of_samples(self, ids: np.ndarray) -> None:
        """The ids of the rows that come next."""
        self._next = torch.from_numpy(np.asarray(ids, dtype=np.int64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Adds scores (n, D). Raises ValueError for another shape, not finite, or without `of_samples`."""
        check_rows(rows, self.dim, "scores")
        ids, self._next = ids_of(self._next, rows), None
        new = {
            "scores": rows.double().cpu(),
            "ids": ids[:, None].expand(-1, self.dim),
            "count": torch.tensor(len(rows)),
        }
        self._own = self._pooled = self._best(self._own, new)

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._pooled = self._best(
            {
                "scores": all_gather_rows(self._own["scores"], group),
                "ids": all_gather_rows(self._own["ids"], group),
                "count": all_sum(self._own["count"].clone(), group),
            }
        )

    @property
    def count(self) -> int:
        """Samples of all ranks after `pool`; before it, or after an update, this rank's own."""
        return int(self._pooled["count"])

    def ids(self) -> Tensor:
        """(k, D) int64, the best first; `NOBODY` where there are fewer samples."""
        return self._pooled["ids"]

    def scores(self) -> Tensor:
        """(k, D) float64; -inf where there is nobody."""
        return self._pooled["scores"]

    def _best(self, *states: dict[str, Tensor]) -> dict[str, Tensor]:
        scores, ids = (torch.cat([state[name] for state in states]) for name in ("scores", "ids"))
        # Stable, so that of equal scores the smaller id is first, whatever the order they came in.
        by_id = ids.argsort(dim=0)
        scores, ids = scores.gather(0, by_id), ids.gather(0, by_id)
        order = scores.argsort(dim=0, descending=True, stable=True)[: self.keep]
        count = torch.stack([state["count"] for state in states]).sum()
        return {"scores": scores.gather(0, order), "ids": ids.gather(0, order), "count": count}

    def settings(self) -> dict[str, Any]:
        """What is kept."""
        return {"kind": "exemplars", "dim": self.dim, "keep": self.keep}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own exemplars."""
        return {name: value.contiguous() for name, value in self._own.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for one of other settings."""
        self._check(state)
        self._own = self._pooled = dict(state)

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._check(state)
        self._own = self._pooled = self._best(self._own, state)

    def _check(self, state: dict[str, Tensor]) -> None:
        expected = {name: tuple(value.shape) for name, value in self._own.items()}
        found = {name: tuple(value.shape) for name, value in state.items()}
        if found != expected:
            raise ValueError(f"Exemplars: its state has {expected}, got {found}")


class KeptRows:
    """The rows of chosen samples, for figures that need more than sums: `SampleAccumulator`.

    Args:
        chosen: ids of the samples, each once.
        dim: D.

    Raises:
        ValueError: an id twice, or dim below 1.
    """

    def __init__(self, chosen: np.ndarray, dim: int) -> None:
        self.chosen, self.dim = np.sort(np.asarray(chosen, dtype=np.int64)), dim
        if dim < 1 or len(np.unique(self.chosen)) < len(self.chosen):
            raise ValueError(f"need ids that are each there once and dim >= 1, got {len(chosen)} and {dim}")
        self._next: Tensor | None = None
        size = len(self.chosen)
        self._sums = Sums("KeptRows", {"rows": (size, dim), "seen": (size,)})

    def of_samples(self, ids: np.ndarray) -> None:
        """The ids of the rows that come next."""
        self._next = torch.from_numpy(np.asarray(ids, dtype=np.int64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Takes the chosen ones of rows (n, D). Raises ValueError as `Exemplars.update`."""
        check_rows(rows, self.dim, "rows")
        ids, self._next = ids_of(self._next, rows).numpy(), None
        size = len(self.chosen)
        places = np.searchsorted(self.chosen, ids)
        is_chosen = self.chosen[np.minimum(places, size - 1)] == ids if size else np.zeros(len(ids), bool)
        there = torch.from_numpy(places[is_chosen])
        # Every sample comes once, so a sum over ranks and parts of a pass is the row itself.
        kept = torch.zeros(size, self.dim, dtype=torch.float64)
        kept[there] = rows.double().cpu()[torch.from_numpy(is_chosen)]
        seen = torch.zeros(size, dtype=torch.float64).index_fill(0, there, 1.0)
        self._sums.add(len(rows), rows=kept, seen=seen)

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._sums.pool(group)

    @property
    def count(self) -> int:
        """Samples that came by, chosen or not."""
        return self._sums.count

    def rows(self) -> Tensor:
        """(s, D) float64: rows of the chosen samples that came, in the order of their ids."""
        return self._sums["rows"][self._sums["seen"] > 0]

    def settings(self) -> dict[str, Any]:
        """What is kept."""
        return {"kind": "kept rows", "dim": self.dim, "chosen": self.chosen.tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own rows."""
        return self._sums.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for one of other settings."""
        self._sums.load_state_dict(state)

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._sums.add_state(state)


def ids_of(ids: Tensor | None, rows: Tensor) -> Tensor:
    """The ids of these rows. Raises ValueError: they were not told, or are those of other rows."""
    if ids is None or len(ids) != len(rows):
        raise ValueError(
            f"{len(rows)} rows of {'unknown' if ids is None else len(ids)} samples: call of_samples(ids) "
            "with an id a row before each update"
        )
    return ids
