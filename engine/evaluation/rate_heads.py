"""Linear classifiers that differ in their learning rate alone, trained by SGD on the same batches at once.

One product of the features with all weights takes the place of a training for each rate.
"""

# n images of a batch, F features, L classifiers, C classes, K = L C outputs of all together

from collections.abc import Sequence

import torch
from torch import Tensor
from viewmill.engine.evaluation.linear_probe import LinearProbe


class RateHeads:
    """Weights, biases and their speeds; all begin at zero, so no seed is needed.

    Args:
        rates: of each classifier; one that diverges changes no other.
        width: F.
        decay: of weights and biases, added to the gradient as in torch.optim.SGD.
    """

    def __init__(
        self,
        rates: Sequence[float],
        width: int,
        num_classes: int,
        *,
        momentum: float,
        decay: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_heads, self.num_classes = len(rates), num_classes
        self._momentum, self._decay = momentum, decay
        self._rate_K = torch.tensor(rates, device=device).repeat_interleave(num_classes)
        # The last row holds the biases.
        self._weight_FK = torch.zeros(width + 1, len(rates) * num_classes, device=device)
        self._speed_FK = torch.zeros_like(self._weight_FK)

    def step(
        self, features_nF: Tensor, labels_n: Tensor, factor: float, counted_nL: Tensor | None = None
    ) -> None:
        """One step on a batch, of the mean cross-entropy over the images that a classifier counts.

        v <- momentum v + gradient + decay w;  w <- w - rate factor v

        Args:
            features_nF: float32 on the device; labels_n: int64 there.
            factor: the schedule's, of the rate.
            counted_nL: bool, which images each classifier learns from; None: all. One that counts none of a
                batch still decays and moves on by its speed.
        """
        n = len(features_nF)
        logits_nK = features_nF @ self._weight_FK[:-1] + self._weight_FK[-1]
        error_nLC = logits_nK.view(n, self.num_heads, self.num_classes).softmax(dim=2)
        error_nLC[torch.arange(n, device=labels_n.device), :, labels_n] -= 1
        if counted_nL is None:
            error_nLC /= n
        else:
            error_nLC *= (counted_nL / counted_nL.sum(dim=0).clamp(min=1)).to(error_nLC)[:, :, None]
        error_nK = error_nLC.flatten(1)
        gradient_FK = torch.cat([features_nF.T @ error_nK, error_nK.sum(dim=0, keepdim=True)])
        if self._decay:
            gradient_FK.add_(self._weight_FK, alpha=self._decay)
        self._speed_FK.mul_(self._momentum).add_(gradient_FK)
        self._weight_FK.sub_(self._rate_K * factor * self._speed_FK)

    def probe(self, head: int, mean: Tensor | None = None, std: Tensor | None = None) -> LinearProbe:
        """A classifier as it stands, of features that were standardised by `mean` and `std`, if at all."""
        weight_FC = self._weight_FK.unflatten(1, (self.num_heads, self.num_classes))[:, head]
        zero = weight_FC.new_zeros(len(weight_FC) - 1)
        return LinearProbe(
            zero if mean is None else mean,
            zero + 1 if std is None else std,
            weight_FC[:-1].clone(),
            weight_FC[-1].clone(),
        )

    def packed(self) -> Tensor:
        """(2, F + 1, K) on the CPU: weights and speeds."""
        return torch.stack([self._weight_FK, self._speed_FK]).cpu()

    def unpack(self, rows: Tensor) -> None:
        """Takes the state of `packed` rows."""
        self._weight_FK.copy_(rows[0])
        self._speed_FK.copy_(rows[1])
