"""A linear probe on cached features: multinomial logistic regression, regularised by a split of train.

Full-batch L-BFGS in torch: the problem is convex, so the result is the optimum and depends on no learning
rate, batch order or seed, and the same lines run on a GPU. The strengths are tried from strong to weak, each
begun at the one before, which makes the whole path cost little more than its last point. (scikit-learn's
solver finds the same optimum, in float64 and on the CPU only; a test compares the two.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0 ** (-half / 2) for half in range(11))  # 1 ... 1e-5
HELD_OUT_EVERY = 5  # of the images of each class
ROW_BLOCK = 16_384  # rows whose logits, or float64 copies, are held at once
MAX_ITERATIONS = 300


@dataclass(frozen=True)
class LinearProbe:
    """Logits ((x - mean) / std) weight + bias."""

    mean: Tensor  # (F,) as std: of the training features
    std: Tensor  # inf: the feature never changes, and has no say
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

    The bias is free. A feature that never changes gets no weight. scikit-learn's C is 1 / (strength N).
    """
    mean, covariance = _moments(features)
    std = spread(mean, covariance.diagonal())
    power, basis = torch.linalg.eigh(covariance / std.outer(std))
    power, basis = power.clamp(min=0).float().to(device), basis.float().to(device)
    mean, std = mean.float().to(device), std.float().to(device)
    turned = torch.cat([((rows.to(device) - mean) / std) @ basis for rows in features.split(ROW_BLOCK)])
    problem = _Problem(turned, labels.to(device), num_classes, power)
    probes = {}
    for strength in sorted(strengths, reverse=True):
        weight, bias = problem.minimise(strength)
        probes[strength] = LinearProbe(mean, std, basis @ weight, bias)
    return probes


def standardisation(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of each feature, as `fit_path` takes them: two (F,) float32."""
    mean = sum_over_blocks(features, lambda rows: rows.sum(dim=0)) / len(features)
    variance = sum_over_blocks(features, lambda rows: (rows - mean).square().sum(dim=0)) / len(features)
    return mean.float(), spread(mean, variance).float()


def spread(mean: Tensor, variance: Tensor) -> Tensor:
    """Standard deviations (F,); infinite where a feature never changes, so that it has no say."""
    std = variance.sqrt()
    # A spread below float32's resolution is rounding, which dividing would blow up.
    return std.masked_fill(std <= 1e-6 * mean.abs() + 1e-12, torch.inf)


class _Problem:
    """The regression on the features' principal axes, where it is solved; goes on where it stood.

    There the Hessian is close to diagonal, power_f / C + strength for feature f, and dividing by its root
    makes all directions alike: L-BFGS then takes tens of steps, and hundreds without it. The optimum is the
    same, since a rotation leaves |weight| as it is.

    Args:
        features: (N, F) standardised and turned; power: (F,) their variances.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, power: Tensor) -> None:
        self.features, self.labels, self.power, self.num_classes = features, labels, power, num_classes
        self.weight = features.new_zeros(features.shape[1], num_classes)
        self.bias = features.new_zeros(num_classes)

    def minimise(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight (F, C) and bias (C,) of the optimum."""
        scale = (self.power[:, None] / self.num_classes + strength).rsqrt()
        bias_scale = self.num_classes**0.5
        weight = (self.weight / scale).requires_grad_()
        bias = (self.bias / bias_scale).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=MAX_ITERATIONS,
            tolerance_grad=1e-5,
            tolerance_change=1e-8,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), device=weight.device)
            blocks = zip(self.features.split(ROW_BLOCK), self.labels.split(ROW_BLOCK), strict=True)
            for rows, targets in blocks:
                scaled = scale * weight
                cross_entropy = F.cross_entropy(rows @ scaled + bias_scale * bias, targets)
                # A block's share of the whole, penalty included.
                loss = len(rows) / len(self.features) * (cross_entropy + strength / 2 * scaled.square().sum())
                loss.backward()
                total += loss.detach()
            return total

        optimizer.step(objective)
        self.weight, self.bias = (scale * weight).detach(), (bias_scale * bias).detach()
        return self.weight, self.bias


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (F,) and covariance (F, F) in float64, a block of rows at a time."""
    mean = sum_over_blocks(features, lambda rows: rows.sum(dim=0)) / len(features)
    covariance = sum_over_blocks(features, lambda rows: (rows - mean).T @ (rows - mean)) / len(features)
    return mean, covariance


def sum_over_blocks(features: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """Sum of `of(rows)` over blocks of rows, which it sees in float64."""
    first, *others = features.split(ROW_BLOCK)
    total = of(first.double())
    for rows in others:
        total = total + of(rows.double())
    return total
