"""Prototypes of clusters from a whole data set: spherical k-means, or EM of a mixture of equal widths."""

# n images of this rank, N of all, D numbers of a representation, K clusters

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums, check_rows

# How far the two halves of a split cluster are moved apart, of a unit vector: enough to tell them apart.
_SPLIT = 0.01
_EMPTY = 0.5  # samples: a cluster with less weight than that has nobody


class PrototypeAccumulator:
    """Sums the unit representations of each cluster: the new prototypes of a pass are theirs. `Accumulator`.

    With u = f(x)/|f(x)| and unit prototypes w_k:
    hard (temperature None)  r_ik = 1 for the k with the largest w_k . u_i, else 0: spherical k-means
    soft                     r_ik = softmax_k(w_k . u_i / temperature): EM of von Mises-Fisher clusters of
                             concentration 1/temperature and equal shares
    new w_k = normalise(sum_i r_ik u_i). Source: clustering distillation, end of section 3 (the update of the
    weight vectors by k-means or EM over all training data, left there to future work).
    A pass with the new prototypes has no lower `fit`, but for the hundredth by which `refresh` moves the
    halves of a cluster that it splits.

    Args:
        prototypes: (K, D), K >= 2, of any length but zero.
        temperature: None, or > 0.

    Raises:
        ValueError: the prototypes are no such matrix, or the temperature is not positive.
    """

    def __init__(self, prototypes: Tensor, temperature: float | None = None) -> None:
        if prototypes.ndim != 2 or len(prototypes) < 2:
            raise ValueError(f"prototypes must be (K >= 2, D), got {tuple(prototypes.shape)}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be > 0 or None, got {temperature}")
        prototypes = prototypes.detach()
        lengths = prototypes.double().norm(dim=1, keepdim=True)
        if not (torch.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("a prototype is zero or not finite, and has no direction")
        self.prototypes = prototypes.double() / lengths  # (K, D)
        self.temperature = temperature
        clusters, dim = prototypes.shape
        shapes = {"sums": (clusters, dim), "weights": (clusters,), "fit": ()}
        self._sums = Sums("PrototypeAccumulator", shapes)

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Adds representations (n, D), n >= 0; a zero one has no direction and moves no prototype.

        Raises:
            ValueError: another shape, or numbers not finite.
        """
        check_rows(rows, self.prototypes.shape[1], "representations")
        u_nD = torch.nn.functional.normalize(rows.double(), dim=1)
        s_nK = u_nD @ self.prototypes.to(u_nD.device).T
        if self.temperature is None:
            fit_n, nearest_n = s_nK.max(dim=1)
            r_nK = torch.nn.functional.one_hot(nearest_n, s_nK.shape[1]).double()
        else:
            scaled_nK = s_nK / self.temperature
            fit_n, r_nK = scaled_nK.logsumexp(dim=1), scaled_nK.softmax(dim=1)
        self._sums.add(len(rows), sums=r_nK.T @ u_nD, weights=r_nK.sum(dim=0), fit=fit_n.sum())

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._sums.pool(group)

    @property
    def count(self) -> int:
        """Samples that the statistics are of."""
        return self._sums.count

    def weights(self) -> Tensor:
        """Samples of every cluster, in parts where assignments are soft: (K,) float64."""
        return self._sums["weights"].cpu()

    def fit(self) -> float:
        """Mean over samples of the cosine with the nearest prototype (hard), or of log sum_k exp(w_k . u /
        temperature) (soft). Raises ValueError where no sample was added.
        """
        return float(self._sums.mean("fit"))

    def empty(self) -> Tensor:
        """Which clusters have the weight of less than half a sample: (K,) bool."""
        return self.weights() < _EMPTY

    def refresh(self) -> Tensor:
        """New prototypes, of length 1: (K, D) float64, the same on all ranks after `pool`.

        An empty cluster takes half of the largest: both get its direction, moved a hundredth apart along the
        old direction of the empty one, and the next pass divides its samples. The second empty one takes half
        of the second largest, and so on. A cluster whose samples cancel out stays where it was.
        """
        sums, old = self._sums["sums"].cpu(), self.prototypes.cpu()
        lengths = sums.norm(dim=1, keepdim=True)
        new = torch.where(lengths > 0, sums / lengths.clamp(min=1e-300), old)
        for free, full in self.splits():
            new[free], new[full] = new[full] + _SPLIT * old[free], new[full] - _SPLIT * old[free]
        return torch.nn.functional.normalize(new, dim=1)

    def splits(self) -> list[tuple[int, int]]:
        """(empty, full): the empty clusters that take half of another in `refresh`, and that other."""
        weights, empty = self.weights(), self.empty().nonzero().flatten().tolist()
        by_weight = weights.argsort(descending=True, stable=True).tolist()
        pairs = zip(empty, by_weight, strict=False)
        # A cluster with less than one sample has nothing to share.
        return [(free, full) for free, full in pairs if weights[full] >= 2 * _EMPTY]

    def settings(self) -> dict[str, Any]:
        """What the sums depend on: the temperature, and the prototypes by their hash."""
        numbers = self.prototypes.cpu().contiguous().numpy().tobytes()
        return {
            "kind": "prototypes",
            "shape": list(self.prototypes.shape),
            "temperature": self.temperature,
            "prototypes_sha256": hashlib.sha256(numbers).hexdigest(),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        return self._sums.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for other shapes."""
        self._sums.load_state_dict(state)

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._sums.add_state(state)
