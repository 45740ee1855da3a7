"""Cluster priors of a whole data set, summed up batch by batch."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import all_sum


class PriorAccumulator:
    """Sums teacher posteriors in float64; ranks may add any number of samples, also none: `Accumulator`.

    P_k = 1/N sum_i t(k|x_i). Source: clustering distillation, equation 15.

    Args:
        num_clusters: K.
        temperature: of updates that name none.

    Raises:
        ValueError: fewer than two clusters, or a temperature that is not positive.
    """

    def __init__(self, num_clusters: int, temperature: float | None = None) -> None:
        if num_clusters < 2:
            raise ValueError(f"num_clusters must be >= 2, got {num_clusters}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be > 0, got {temperature}")
        self.num_clusters = num_clusters
        self.temperature = temperature
        # The sums of t, those of t squared (for the standard errors), and last the number of samples.
        self._sums = torch.zeros(2 * num_clusters + 1, dtype=torch.float64)
        self._pooled = self._sums

    @torch.no_grad()
    def update(self, logits: Tensor, temperature: float | None = None) -> None:
        """Adds the posteriors softmax(logits / temperature) of some samples; logits: (n, K), n >= 0.

        Raises:
            ValueError: logits of another shape, a temperature that is not positive or named nowhere, or
                logits that are not finite, which would spoil the sums for good.
        """
        temperature = self.temperature if temperature is None else temperature
        if (
            logits.ndim != 2
            or logits.shape[1] != self.num_clusters
            or temperature is None
            or not temperature > 0
        ):
            raise ValueError(
                f"need logits (n, {self.num_clusters}) and a temperature > 0, "
                f"got {tuple(logits.shape)} and {temperature}"
            )
        if not torch.isfinite(logits).all():
            raise ValueError(
                "the teacher's logits are not finite: they would spoil the prior of the data set"
            )
        t = (logits.double() / temperature).softmax(dim=1)
        added = torch.cat([t.sum(dim=0), t.square().sum(dim=0), t.new_tensor([len(t)])])
        self._sums = self._sums.to(t.device) + added
        self._pooled = self._sums

    def pool(self, group: ProcessGroup | None = None) -> None:
        """Takes in what the other ranks of the group have added; all of them call it. Updates start from the
        rank's own sums again.
        """
        # On the host: a rank without samples does not know on which device the others have theirs.
        self._pooled = all_sum(self._sums.cpu().clone(), group).to(self._sums.device)

    def log_prior(self, group: ProcessGroup | None = None) -> Tensor:
        """log P over the samples of all ranks, at least log 1/(N K): (K,) float64. All ranks call it.

        Raises:
            ValueError: on all ranks: no rank has any sample.
        """
        self.pool(group)
        if not self.count:
            raise ValueError("the prior of no samples: update() was never called")
        floor = 1 / (self.count * self.num_clusters)
        return (self._pooled[: self.num_clusters] / self.count).clamp(min=floor).log()

    @property
    def count(self) -> int:
        """Samples that the last `log_prior` pooled; before it, or after an update, this rank's own."""
        return int(self._pooled[-1])

    def standard_error(self) -> Tensor:
        """Of every P_k, if the samples pooled were drawn at random from more: (K,) float64.

        sqrt((mean t^2 - P^2) / (N - 1)); infinite for one sample.
        """
        mean, square = self._pooled[:-1].view(2, -1) / self.count
        variance = (square - mean.square()).clamp(min=0)
        return (variance / (self.count - 1)).sqrt() if self.count > 1 else torch.full_like(mean, math.inf)

    def settings(self) -> dict[str, Any]:
        """What the sums depend on."""
        return {"kind": "prior", "num_clusters": self.num_clusters, "temperature": self.temperature}

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's own sums, to go on with after a restart. Those of several ranks may be added up."""
        return {"sums": self._sums.cpu().clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict` of an accumulator of as many clusters.

        Raises:
            ValueError: it has other clusters, or lacks its sums.
        """
        sums = state.get("sums")
        if not isinstance(sums, Tensor) or sums.shape != self._sums.shape:
            raise ValueError(
                f"the state of a PriorAccumulator of {self.num_clusters} clusters has 'sums' of "
                f"{2 * self.num_clusters + 1} numbers, got {None if sums is None else tuple(sums.shape)}"
            )
        self._sums = self._pooled = sums.double().clone()

    def add_state(self, state: dict[str, Tensor]) -> None:
        """Takes in a state of another rank or part. Raises ValueError as `load_state_dict`."""
        own = self._sums.cpu()
        self.load_state_dict(state)
        self._sums = self._pooled = self._sums + own
