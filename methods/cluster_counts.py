"""Which classes the images of each cluster have: counts over a whole data set, of which most are zero."""

# n images of this rank, K clusters, C classes

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import check_rows
from viewmill.methods.collectives import all_gather_rows
from viewmill.methods.exemplars import ids_of


class ClusterClassCounts:
    """How many images of each class each cluster has, an image being in its likeliest: `SampleAccumulator`.

    Only pairs of cluster and class that occur are kept, not K C numbers, which may be 65,536 x 1,000.

    Args:
        num_clusters: K.
        labels: (N,) int64 classes of all samples by id, 0 .. C - 1.

    Raises:
        ValueError: no cluster, or a label below 0.
    """

    def __init__(self, num_clusters: int, labels: Tensor) -> None:
        if num_clusters < 1 or bool((labels < 0).any()):
            raise ValueError(f"need a cluster and a class for each image, got {num_clusters} clusters")
        self.num_clusters, self._labels = num_clusters, labels
        self._classes = int(labels.max()) + 1 if len(labels) else 1
        self._next: Tensor | None = None
        self._own = self._pooled = _state(
            torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        )

    def of_samples(self, ids: np.ndarray) -> None:
        """The ids of the rows that come next."""
        self._next = torch.from_numpy(np.asarray(ids, dtype=np.int64))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Adds logits (n, K). Raises ValueError for another shape, not finite, or without `of_samples`."""
        check_rows(rows, self.num_clusters, "logits")
        ids, self._next = ids_of(self._next, rows), None
        cells = rows.argmax(dim=1).cpu() * self._classes + self._labels[ids]
        self._own = self._pooled = _merged(self._own, _state(cells, torch.ones_like(cells)))

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        sizes = all_gather_rows(torch.tensor([len(self._own["cells"])]), group)
        longest = int(sizes.max())
        states = []
        for name in ("cells", "counts"):
            padded = torch.zeros(longest, dtype=torch.int64)
            padded[: len(self._own[name])] = self._own[name]
            states.append(all_gather_rows(padded, group))
        # Padding counts nothing: cell 0, zero times.
        self._pooled = _merged(_state(*states))

    @property
    def count(self) -> int:
        """Images that the counts are of."""
        return int(self._pooled["counts"].sum())

    def cells(self) -> tuple[Tensor, Tensor, Tensor]:
        """Clusters, classes and images of every pair that occurs: three (m,) int64."""
        cells = self._pooled["cells"]
        return cells // self._classes, cells % self._classes, self._pooled["counts"]

    def purity(self) -> float:
        """Share of images of their cluster's most frequent class: 1/N sum_k max_c n_kc.

        1 if every cluster has one class, which a cluster an image has too. Source: Manning, Raghavan and
        Schuetze (2008), Introduction to information retrieval, section 16.3.

        Raises:
            ValueError: no samples were added.
        """
        if not self.count:
            raise ValueError("ClusterClassCounts: no samples were added, so there is no purity")
        clusters, _, counts = self.cells()
        most = torch.zeros(self.num_clusters, dtype=torch.int64)
        return int(most.scatter_reduce(0, clusters, counts, "amax").sum()) / self.count

    def settings(self) -> dict[str, Any]:
        """What the counts depend on."""
        return {"kind": "cluster class counts", "clusters": self.num_clusters, "classes": self._classes}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own counts."""
        return dict(self._own)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for one of other settings."""
        self._check(state)
        self._own = self._pooled = dict(state)

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._check(state)
        self._own = self._pooled = _merged(self._own, state)

    def _check(self, state: dict[str, Tensor]) -> None:
        limit = self.num_clusters * self._classes
        if state.keys() != self._own.keys() or len(state["cells"]) != len(state["counts"]):
            raise ValueError(f"ClusterClassCounts: its state has cells and counts, got {sorted(state)}")
        if len(state["cells"]) and not 0 <= int(state["cells"].min()) <= int(state["cells"].max()) < limit:
            raise ValueError(f"ClusterClassCounts: cells lie below {limit}, the state is of other settings")


def _state(cells: Tensor, counts: Tensor) -> dict[str, Tensor]:
    return {"cells": cells, "counts": counts}


def _merged(*states: dict[str, Tensor]) -> dict[str, Tensor]:
    """Counts of equal cells added up; cells in order, without those that count nothing."""
    cells, counts = (torch.cat([state[name] for state in states]) for name in ("cells", "counts"))
    there = counts > 0
    unique, places = cells[there].unique(return_inverse=True)
    total = torch.zeros(len(unique), dtype=torch.int64).index_add_(0, places, counts[there])
    return _state(unique, total)
