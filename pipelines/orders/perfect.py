"""What a perfect shuffle gives: the mean of each figure of shuffle quality, and its standard error.

Means are exact where there is a formula; what has none is taken from perfect shuffles of a fixed seed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

SOON = 10  # a sample that returns within 1/SOON of an epoch has returned soon
_BATCHES_DRAWN = 400
_SHUFFLES_DRAWN = 30
_LARGEST_SHUFFLE = 100_000  # samples; of more, figures are those of so many, scaled


class Expected(NamedTuple):
    """The mean of a figure over perfect shuffles, and the standard deviation of one measurement of it."""

    mean: float
    deviation: float


def class_entropy(class_counts: np.ndarray, batch_size: int, num_batches: int) -> Expected:
    """Mean over batches of the entropy (nats) of a batch's class histogram.

    The number k of a class with n of N samples in a batch of B is hypergeometric, so the mean is
    ln B - 1/B sum_c E[k ln k].
    """
    total = 0.0
    for size, times in zip(*np.unique(class_counts, return_counts=True), strict=True):
        k = np.arange(1, min(int(size), batch_size) + 1)
        chances = _hypergeometric(k, int(size), int(class_counts.sum()), batch_size)
        total += times * float((chances * k * np.log(k)).sum())
    drawn = entropies(_random_batches(class_counts, batch_size), len(class_counts))
    return Expected(np.log(batch_size) - total / batch_size, float(drawn.std() / num_batches**0.5))


def distinct_classes(class_counts: np.ndarray, batch_size: int, num_batches: int) -> Expected:
    """Mean over batches of how many classes a batch holds: sum_c 1 - C(N - n, B) / C(N, B)."""
    absent = _hypergeometric(np.zeros(1), class_counts, int(class_counts.sum()), batch_size)
    drawn = distinct(_random_batches(class_counts, batch_size), len(class_counts))
    return Expected(float((1 - absent).sum()), float(drawn.std() / num_batches**0.5))


def adjacent_share(num_samples: int, batch_size: int, num_batches: int) -> Expected:
    """Pairs of samples that lie side by side on disk, in one batch, a sample: (B - 1) / N.

    Of N - 1 pairs each is in a batch with chance B (B - 1) / (N (N - 1)); they are rare and nearly
    independent, so their number is nearly Poisson's.
    """
    pairs = batch_size * (batch_size - 1) / num_samples
    return Expected(pairs / batch_size, (pairs / num_batches) ** 0.5 / batch_size)


def step_length(num_samples: int, num_steps: int) -> Expected:
    """Mean distance on disk of one position and the next, as a share of the data set: about 1/3.

    Steps that share a position are correlated: for three uniform numbers Cov(|a - b|, |b - c|) = 1/180, and
    Var |a - b| = 1/18, so the variance of the mean is (1/18 + 2/180) / steps = 1 / (15 steps).
    """
    return Expected((num_samples + 1) / (3 * num_samples), (15 * num_steps) ** -0.5)


def returns_soon(num_samples: int, num_pairs: int) -> Expected:
    """Share of samples that come again within t = N / SOON positions: t (t - 1) / 2 of N x N pairs."""
    soon = num_samples // SOON
    drawn = _over_shuffles(num_samples, soon_share)
    return Expected(soon * (soon - 1) / 2 / num_samples**2, drawn.deviation / num_pairs**0.5)


def gap_distance(num_samples: int, num_pairs: int) -> Expected:
    """Kolmogorov-Smirnov distance of the position differences of one epoch and the next from their law."""
    drawn = _over_shuffles(num_samples, triangular_distance)
    return Expected(drawn.mean, drawn.deviation / num_pairs**0.5)


def dropped_always(num_samples: int, dropped: int, epochs: int) -> Expected:
    """Samples that the short last batch of `dropped` costs in each of some epochs; nearly Poisson's."""
    mean = dropped * (dropped / num_samples) ** (epochs - 1)
    return Expected(mean, mean**0.5)


def entropies(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Entropy (nats) of each row's histogram: labels (batches, B) in [0, num_classes) -> (batches,)."""
    batches, size = labels.shape
    cells, counts = np.unique(np.arange(batches)[:, None] * num_classes + labels, return_counts=True)
    sums = np.bincount(cells // num_classes, weights=counts * np.log(counts), minlength=batches)
    return np.asarray(np.log(size) - sums / size)


def distinct(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """How many classes each row holds: labels (batches, B) -> (batches,)."""
    cells = np.unique(np.arange(len(labels))[:, None] * num_classes + labels)
    return np.bincount(cells // num_classes, minlength=len(labels))


def soon_share(before: np.ndarray, after: np.ndarray) -> float:
    """Share of samples with fewer than N / SOON positions from one epoch's place to the next one's.

    before, after: (N,) the position of each sample in an epoch and in the next one.
    """
    num_samples = len(before)
    return float((num_samples - before + after < num_samples // SOON).mean())


def triangular_distance(before: np.ndarray, after: np.ndarray) -> float:
    """Largest difference of the distributions of (after - before) / N and of two uniforms' difference."""
    num_samples = len(before)
    differences = np.sort(after - before) / num_samples
    low, high = np.minimum(differences, 0), np.maximum(differences, 0)
    expected = (1 + low) ** 2 / 2 + high - high**2 / 2
    places = np.arange(num_samples) / num_samples
    return float(max((expected - places).max(), (places + 1 / num_samples - expected).max()))


def _over_shuffles(num_samples: int, figure: Callable[[np.ndarray, np.ndarray], float]) -> Expected:
    """Mean and deviation of a figure, which shrinks with the root of the samples, over perfect shuffles."""
    size = min(num_samples, _LARGEST_SHUFFLE)
    generator, places = np.random.Generator(np.random.Philox(key=1)), np.arange(size)
    drawn = [figure(places, generator.permutation(size)) for _ in range(_SHUFFLES_DRAWN)]
    scale = (size / num_samples) ** 0.5
    return Expected(float(np.mean(drawn)) * scale, float(np.std(drawn, ddof=1)) * scale)


def _random_batches(class_counts: np.ndarray, batch_size: int) -> np.ndarray:
    """Labels of batches drawn without replacement: (_BATCHES_DRAWN, B)."""
    generator, ends = np.random.Generator(np.random.Philox(key=0)), np.cumsum(class_counts)
    drawn = [generator.choice(int(ends[-1]), batch_size, replace=False) for _ in range(_BATCHES_DRAWN)]
    return np.searchsorted(ends, np.stack(drawn), side="right")


def _hypergeometric(k: np.ndarray, size: np.ndarray | int, total: int, drawn: int) -> np.ndarray:
    """Chance that `drawn` of `total` samples hold k of `size` special ones; broadcasts."""
    size = np.asarray(size)
    possible = (k <= size) & (drawn - k <= total - size)
    k = np.where(possible, k, np.maximum(0, drawn - (total - size)))
    logs = _log_choose(size, k) + _log_choose(total - size, drawn - k) - _log_choose(np.array(total), drawn)
    return np.where(possible, np.exp(logs), 0.0)


def _log_choose(n: np.ndarray, k: np.ndarray | int) -> np.ndarray:
    """ln of the binomial coefficient."""
    n, k = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    return _log_gamma(n + 1) - _log_gamma(k + 1) - _log_gamma(n - k + 1)


def _log_gamma(numbers: np.ndarray) -> np.ndarray:
    return torch.lgamma(torch.as_tensor(numbers, dtype=torch.float64)).numpy()
