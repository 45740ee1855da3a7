"""A linear probe by stochastic gradient descent on cached features, all learning rates of a grid at once.

The rates share each batch. It is the protocol of most papers without its random crops, which `crops` has;
`linear` finds the optimum without any rate.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from viewmill.engine.evaluation.linear_probe import LinearProbe, hold_out, standardisation
from viewmill.engine.evaluation.rate_heads import RateHeads
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
        rate: accuracy_of(probe, features[held_out], labels[held_out])
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
    heads = RateHeads(rates, features.shape[1], num_classes, momentum=MOMENTUM, device=device)
    order = SampleOrder(len(labels), SEED)
    steps = math.ceil(len(labels) / BATCH)
    for step in range(epochs * steps):
        epoch, start = step // steps, step % steps * BATCH
        rows = torch.from_numpy(order.ids(epoch, start, min(start + BATCH, len(labels))))
        decay = (1 + math.cos(math.pi * step / (epochs * steps))) / 2
        heads.step((features[rows].to(device) - mean) / std, labels[rows].to(device), decay)
    return [heads.probe(head, mean, std) for head in range(len(rates))]


def accuracy_of(probe: LinearProbe, features: Tensor, labels: Tensor) -> float:
    """Top-1, share of 1; 0 where the weights diverged."""
    logits = probe.logits(features)
    return (logits.argmax(dim=1) == labels).double().mean().item() if bool(logits.isfinite().all()) else 0.0
