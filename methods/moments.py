"""Mean and variance of embeddings over a whole data set."""

# n images of this rank, N of all, D numbers an image

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums, check_rows


class MomentsAccumulator:
    """Sums of every dimension and of its square: `Accumulator`.

    The mean of a teacher's logits is the data set's centre (clustering distillation, equation 23).

    Args:
        dim: D.

    Raises:
        ValueError: dim below 1.
    """

    def __init__(self, dim: int) -> None:
        if dim < 1:
            raise ValueError(f"dim must be >= 1, got {dim}")
        self.dim = dim
        self._sums = Sums("MomentsAccumulator", {"sum": (dim,), "squares": (dim,)})

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Adds rows (n, D), n >= 0. Raises ValueError for another shape or numbers not finite."""
        check_rows(rows, self.dim, "rows")
        x_nD = rows.double()
        self._sums.add(len(rows), sum=x_nD.sum(dim=0), squares=x_nD.square().sum(dim=0))

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added; all of them call it."""
        self._sums.pool(group)

    @property
    def count(self) -> int:
        """Samples that the statistics are of."""
        return self._sums.count

    def mean(self) -> Tensor:
        """(D,) float64. Raises ValueError where no sample was added, as do the others."""
        return self._sums.mean("sum")

    def variance(self) -> Tensor:
        """Of every dimension over the samples, divided by N: (D,) float64, >= 0.

        Mean of squares less square of the mean: where a mean is 1e6 standard deviations from zero, four of
        float64's sixteen digits are left.
        """
        return (self._sums.mean("squares") - self.mean().square()).clamp(min=0)

    def covariance_trace(self) -> float:
        """Mean squared distance of a sample from the mean: near 0 where everything has collapsed."""
        return float(self.variance().sum())

    def standard_error(self) -> Tensor:
        """Of every mean, if the samples were drawn at random from more: (D,) float64; infinite for one."""
        if self.count < 2:
            return torch.full((self.dim,), math.inf, dtype=torch.float64)
        return (self.variance() / (self.count - 1)).sqrt()

    def settings(self) -> dict[str, Any]:
        """What the sums depend on."""
        return {"kind": "moments", "dim": self.dim}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        return self._sums.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for another width."""
        self._sums.load_state_dict(state)

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._sums.add_state(state)
