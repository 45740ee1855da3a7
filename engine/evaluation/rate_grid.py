"""A linear probe by stochastic gradient descent on cached features, all learning rates of a grid at once.

The rates share each batch: one product of features with all weights takes the place of a training for each.
It is the protocol of most papers without its augmented crops; `linear` finds the optimum without any rate.
"""

# n images of a batch, F features, C classes, L learning rates

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from viewmill.engine.evaluation.linear_probe import LinearProbe, hold_out, standardisation
from viewmill.pipelines.order import SampleOrder

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
EPOCHS, BATCH, MOMENTUM, SEED = 100, 256, 0.9, 0
PROTOCOL = f"sgd-v1/standardised/momentum-{MOMENTUM}/cosine/{EPOCHS}-epochs-of-{BATCH}"


@dataclass(frozen=True)
class RateSelection:
    """How the rate was chosen: top-1 on the held-out split of train; 0 where the weights diverged."""

    rate: float
    held_out: int  # images
    accuracy: dict[float, float]


def fit_rate_grid(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    rates: tuple[float, ...] = RATES,
    epochs: int = EPOCHS,
    device: torch.device | str = "cpu",
) -> tuple[LinearProbe, RateSelection]:
    """The probe of the rate that is best on every fifth image of each class, then fitted to all images.

    Equal accuracies give the smaller rate. The test set is not seen.

    Args:
        features: (N, F) float32; labels: (N,) int64 in 0 .. num_classes - 1.

    Raises:
        ValueError: no class has five images, so nothing can be held out; or no rate.
    """
    held_out = hold_out(labels)
    if not rates or not held_out.any():
        raise ValueError(
            "sgd chooses among its rates by every fifth training image of a class, and no class has five of "
            f"the {len(labels)}; convert more images, or leave out sgd"
        )
    tried = train_probes(features[~held_out], labels[~held_out], num_classes, rates, epochs, device)
    accuracy = {
        rate: _accuracy(probe, features[held_out], labels[held_out])
        for rate, probe in zip(rates, tried, strict=True)
    }
    best = max(accuracy, key=lambda rate: (accuracy[rate], -rate))
    probe = train_probes(features, labels, num_classes, (best,), epochs, device)[0]
    return probe, RateSelection(best, int(held_out.sum()), accuracy)


def train_probes(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    rates: tuple[float, ...],
    epochs: int,
    device: torch.device | str = "cpu",
) -> list[LinearProbe]:
    """A probe for each rate, in their order, all from zero and all seeing the same batches.

    v <- 0.9 v + gradient of the batch's mean cross-entropy on standardised features; w <- w - rate decay v.
    The batches are those of `SampleOrder`, the last one of an epoch may be short.
    """
    mean, std = (number.to(device) for number in standardisation(features))
    weight_LFC = torch.zeros(len(rates), features.shape[1], num_classes, device=device)
    bias_L1C = torch.zeros(len(rates), 1, num_classes, device=device)
    speeds = [torch.zeros_like(weight_LFC), torch.zeros_like(bias_L1C)]
    rate_L11 = torch.tensor(rates, device=device)[:, None, None]
    order = SampleOrder(len(labels), SEED)
    steps = math.ceil(len(labels) / BATCH)
    for step in range(epochs * steps):
        epoch, start = step // steps, step % steps * BATCH
        rows = torch.from_numpy(order.ids(epoch, start, min(start + BATCH, len(labels))))
        x_nF = (features[rows].to(device) - mean) / std
        error_LnC = (x_nF @ weight_LFC + bias_L1C).softmax(dim=2)
        error_LnC[:, torch.arange(len(rows)), labels[rows]] -= 1
        gradients = [x_nF.T @ error_LnC / len(rows), error_LnC.mean(dim=1, keepdim=True)]
        decay = (1 + math.cos(math.pi * step / (epochs * steps))) / 2
        for value, speed, gradient in zip((weight_LFC, bias_L1C), speeds, gradients, strict=True):
            speed.mul_(MOMENTUM).add_(gradient)
            value.sub_(rate_L11 * decay * speed)
    return [LinearProbe(mean, std, w, b[0]) for w, b in zip(weight_LFC, bias_L1C, strict=True)]


def _accuracy(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    logits = probe.logits(features)
    return (logits.argmax(dim=1) == labels).double().mean().item() if bool(logits.isfinite().all()) else 0.0
