"""IMSVD's joint matrix of soft variables over a whole data set, and what it says of them."""

# n images of this rank, N of all, D = M variables x U units, K columns of a block

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.accumulator import Sums, check_rows
from viewmill.methods.collectives import all_sum
from viewmill.methods.imsvd import soft_variables

ABOVE = (0.9, 0.99)  # the paper's bounds for variables that have made up their mind
CORNER = 400  # rows and columns of the matrix that are told as they are: the paper's figure 3 has as many
_BLOCK_NUMBERS = 4 * 2**20  # of the matrix that travel at once: 32 MiB


class JointStatistics(NamedTuple):
    """Of the variables over the samples of all ranks; entropies in nats, of probabilities >= 1e-8."""

    marginal_entropy: float  # H(m), mean over variables; log U where units are used equally
    joint_entropy: float  # H(m1, m2), mean over pairs m1 != m2; 2 log U at IMSVD's optimum
    mutual_information: float  # H(m1) + H(m2) - H(m1, m2), mean over pairs; 0 at the optimum
    share_above: dict[float, float]  # of (sample, variable) whose largest q exceeds 0.9 and 0.99


class JointAccumulator:
    """Sums q^T q of one view's soft variables, D x D, and counts the decided ones: `Accumulator`.

    P(m1,m2; d1,d2) = 1/N sum_i q_i(m1,d1) q_i(m2,d2). Source: IMSVD, equations 3 and 6, over the data set;
    the shares above 0.9 and 0.99 are those that the paper reports.

    Every rank keeps all of its own D x D sums, 8 D^2 bytes (533 MB at D = 8160): its rows alone go into them,
    so no update communicates, and the multiplications of a pass are N D^2 over all ranks. The ranks meet
    once, in `pool`, and then a rank has the pooled matrix block by block, never whole beside its own.

    Args:
        dim: D, numbers of an embedding.
        units: U, values of a variable; divides D into M >= 2 variables.
        temperature: of the softmax.

    Raises:
        ValueError: D is no multiple of units with M >= 2, or a temperature that is not positive.
    """

    def __init__(self, dim: int, units: int, temperature: float = 1.0) -> None:
        if units < 2 or dim % units or dim < 2 * units:
            raise ValueError(f"{dim} logits are no 2 or more variables of {units} >= 2 units each")
        if not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.dim, self.units, self.temperature = dim, units, temperature
        shapes = {"joint": (dim, dim), "marginal": (dim,), "above": (len(ABOVE),)}
        self._sums = Sums("JointAccumulator", shapes)
        self._statistics: JointStatistics | None = None
        self._information_MM: Tensor | None = None
        self._corner_KK: Tensor | None = None

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Adds the variables of logits (n, D), n >= 0. Raises ValueError for another shape or not finite."""
        check_rows(rows, self.dim, "logits")
        self._statistics = None
        if not len(rows):
            self._sums.add(0)  # empty tensors do not split into variables
            return
        q_nD = soft_variables(rows.double(), self.units, self.temperature)
        largest_nM = q_nD.view(len(rows), -1, self.units).amax(dim=2)
        above = torch.stack([(largest_nM > bound).sum() for bound in ABOVE]).double()
        self._sums.add(len(rows), joint=q_nD.T @ q_nD, marginal=q_nD.sum(dim=0), above=above)

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks have added, a block of columns at a time; all of them call it."""
        self._sums.pool(group, but=("joint",))
        self._statistics = self._pooled_statistics(group) if self.count else None
        self._corner_KK = self._pooled_corner(group) if self.count else None

    @property
    def count(self) -> int:
        """Samples of all ranks after `pool`; before it, or after an update, this rank's own."""
        return self._sums.count

    def statistics(self) -> JointStatistics:
        """Of the samples that the last `pool` took in.

        Raises:
            ValueError: there were none, or no `pool` since the last update.
        """
        if self._statistics is None:
            raise ValueError("JointAccumulator: no statistics; add samples and call pool()")
        return self._statistics

    def pair_information(self) -> Tensor:
        """H(m1) + H(m2) - H(m1, m2) of every pair: (M, M) float64, 0 on the diagonal.

        Raises:
            ValueError: as `statistics`.
        """
        if self._statistics is None or self._information_MM is None:
            raise ValueError("JointAccumulator: no statistics; add samples and call pool()")
        return self._information_MM

    def corner(self) -> Tensor:
        """P of the first variables, as many as go whole into `CORNER` (one at least): (K, K) float64.

        Raises:
            ValueError: as `statistics`.
        """
        if self._statistics is None or self._corner_KK is None:
            raise ValueError("JointAccumulator: no statistics; add samples and call pool()")
        return self._corner_KK

    def _pooled_corner(self, group: ProcessGroup | None) -> Tensor:
        """On all ranks alike."""
        width = min(self.dim, max(1, CORNER // self.units) * self.units)
        own_KK = self._sums["joint"][:width, :width].cpu().clone()
        return all_sum(own_KK, group) / self.count

    def _pooled_statistics(self, group: ProcessGroup | None) -> JointStatistics:
        """Entropies from P, block by block; on all ranks alike."""
        num_variables, units = self.dim // self.units, self.units
        pairs = num_variables * (num_variables - 1)
        p_MU = self._sums.mean("marginal").view(num_variables, units).cpu()
        single_M = -torch.xlogy(p_MU, p_MU).sum(dim=1)
        marginal = float(single_M.mean())
        entropy_MM = torch.cat([self._pair_entropies(columns, group) for columns in self._blocks()], dim=1)
        self._information_MM = (single_M[:, None] + single_M - entropy_MM).fill_diagonal_(0)
        joint = float(entropy_MM.fill_diagonal_(0).sum()) / pairs
        shares = (self._sums.mean("above") / num_variables).tolist()
        return JointStatistics(marginal, joint, 2 * marginal - joint, dict(zip(ABOVE, shares, strict=True)))

    def _blocks(self) -> Iterator[range]:
        """Columns of the matrix, whole variables at a time."""
        width = max(1, _BLOCK_NUMBERS // self.dim // self.units) * self.units
        for start in range(0, self.dim, width):
            yield range(start, min(start + width, self.dim))

    def _pair_entropies(self, columns: range, group: ProcessGroup | None) -> Tensor:
        """H(m1, m2) of all m1 and of the m2 of these columns, of all ranks' samples: (M, m)."""
        own_DK = self._sums["joint"][:, columns.start : columns.stop].cpu().clone()
        p_DK = all_sum(own_DK, group) / self.count
        p_MUmU = p_DK.view(self.dim // self.units, self.units, -1, self.units)
        return -torch.xlogy(p_MUmU, p_MUmU).sum(dim=(1, 3))

    def settings(self) -> dict[str, Any]:
        """What the sums depend on."""
        return {
            "kind": "joint",
            "dim": self.dim,
            "units": self.units,
            "temperature": self.temperature,
            "above": list(ABOVE),
        }

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums."""
        return self._sums.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state. Raises ValueError for another width."""
        self._sums.load_state_dict(state)
        self._statistics = None

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        self._sums.add_state(state)
        self._statistics = None
