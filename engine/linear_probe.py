"""A linear probe on cached features: multinomial logistic regression, regularised by a split of train.

Full-batch L-BFGS in torch: the problem is convex, so the result is the optimum and depends on no learning
rate, batch order or seed, and the same lines run on a GPU. The strengths are tried from strong to weak, each
begun at the one before, which makes the whole path cost little more than its last point. (scikit-learn's
solver finds the same optimum, in float64 and on the CPU only; a test compares the two.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0 ** (-half / 2) for half in range(11))  # 1 ... 1e-5
HELD_OUT_EVERY = 5  # of the images of each class
ROW_BLOCK = 65_536  # rows whose logits are held at once
MAX_ITERATIONS = 300


@dataclass(frozen=True)
class LinearProbe:
    """softmax(((x - mean) / std) weight + bias)."""

    mean: Tensor  # (F,) as std: of the training features
    std: Tensor
    weight: Tensor  # (F, C)
    bias: Tensor  # (C,)

    def logits(self, features: Tensor) -> Tensor:
        """(n, F) -> (n, C), on the CPU."""
        device = self.weight.device
        blocks = [self._standardised(block.to(device)) for block in features.split(ROW_BLOCK)]
        return torch.cat([(block @ self.weight + self.bias).cpu() for block in blocks])

    def _standardised(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


@dataclass(frozen=True)
class Selection:
    """How the strength was chosen: top-1 on the held-out split of train, by strength."""

    strength: float
    held_out: int  # images
    accuracy: dict[float, float]


def fit_linear_probe(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    strengths: tuple[float, ...] = STRENGTHS,
    device: torch.device | str = "cpu",
) -> tuple[LinearProbe, Selection]:
    """The probe of the strength that is best on every fifth image of each class, fitted to all images.

    Equal accuracies give the stronger regularisation. The test set is not seen.

    Args:
        features: (N, F) float32; labels: (N,) int64 in 0 .. num_classes - 1.

    Raises:
        ValueError: no class has five images, so nothing can be held out.
    """
    held_out = hold_out(labels)
    if not held_out.any():
        raise ValueError(
            f"linear holds out every {HELD_OUT_EVERY}th training image of a class, and no class has "
            f"{HELD_OUT_EVERY} of the {len(labels)}; convert more images, or leave out linear"
        )
    path = fit_path(features[~held_out], labels[~held_out], num_classes, strengths, device)
    accuracy = {
        strength: (probe.logits(features[held_out]).argmax(dim=1) == labels[held_out]).double().mean().item()
        for strength, probe in path.items()
    }
    best = max(accuracy, key=lambda strength: (accuracy[strength], strength))
    # The path down to the chosen strength, not that point alone: it begins near the end.
    down_to_best = tuple(strength for strength in strengths if strength >= best)
    probe = fit_path(features, labels, num_classes, down_to_best, device)[best]
    return probe, Selection(best, int(held_out.sum()), accuracy)


def hold_out(labels: Tensor) -> Tensor:
    """Which images choose the strength: every fifth of each class in id order; (N,) bool."""
    place = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():
        members = labels == label
        place[members] = torch.arange(int(members.sum()))
    return place % HELD_OUT_EVERY == HELD_OUT_EVERY - 1


def fit_path(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    strengths: tuple[float, ...],
    device: torch.device | str = "cpu",
) -> dict[float, LinearProbe]:
    """Probes by strength, minimising mean cross-entropy + strength / 2 |weight|^2 on standardised features.

    The bias is free. A feature that never changes is left at 0. scikit-learn's C is 1 / (strength N).
    """
    mean = features.double().mean(dim=0)
    std = features.double().std(dim=0, correction=0)
    # A spread below float32's resolution is rounding, which dividing would blow up.
    is_constant = std <= 1e-6 * mean.abs() + 1e-12
    mean, std = mean.float().to(device), std.masked_fill(is_constant, 1.0).float().to(device)
    standardised = (features.to(device) - mean) / std
    standardised[:, is_constant.to(device)] = 0.0
    labels = labels.to(device)
    weight = torch.zeros(features.shape[1], num_classes, device=device, requires_grad=True)
    bias = torch.zeros(num_classes, device=device, requires_grad=True)
    probes = {}
    for strength in sorted(strengths, reverse=True):
        _minimise(standardised, labels, weight, bias, strength)
        probes[strength] = LinearProbe(mean, std, weight.detach().clone(), bias.detach().clone())
    return probes


def _minimise(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, strength: float) -> None:
    """Moves weight and bias to the optimum of one strength."""
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        total = strength / 2 * weight.square().sum()
        total.backward()
        total = total.detach()
        for rows, targets in zip(features.split(ROW_BLOCK), labels.split(ROW_BLOCK), strict=True):
            loss = F.cross_entropy(rows @ weight + bias, targets, reduction="sum") / len(features)
            loss.backward()
            total = total + loss.detach()
        return total

    optimizer.step(objective)
