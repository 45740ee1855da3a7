"""Intersection over union: exact counts of pixels, by class and picture, and how sure a mean of them is."""

# n pictures, C classes; counts are int64

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from viewmill.pipelines.philox import Stream, keyed_words

RESAMPLES = 1000
DRAWS_AT_ONCE = 50  # whose random words are held
SEED = 0  # of the resamples
BOTH, PREDICTED, TRUE = range(3)  # rows of the counts of a picture


@dataclass(frozen=True)
class Overlap:
    """How well predicted pixels fit the true ones; shares of 1. None: no such pixel is true or predicted."""

    mean_iou: float  # over the classes that have one
    pixel_accuracy: float
    class_accuracy: float  # mean over the classes with true pixels of the share that is found
    iou: list[float | None]  # by class


def confusion(predicted: Tensor, truth: Tensor, num_classes: int, ignored: int) -> Tensor:
    """Pixels of each true class (row) that were taken for each class (column): (C, C) int64.

    Args:
        predicted, truth: integers of one shape; pixels whose truth is `ignored` are not counted.

    Raises:
        ValueError: other shapes, or values that are no classes.
    """
    if predicted.shape != truth.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and true {tuple(truth.shape)} pixels differ")
    counted = truth != ignored
    true, taken = truth[counted].long(), predicted[counted].long()
    for name, values in (("predicted", taken), ("true", true)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < num_classes:
            raise ValueError(
                f"{name} pixels lie in [{int(values.min())}, {int(values.max())}], "
                f"and the classes are 0 to {num_classes - 1}"
            )
    return torch.bincount(true * num_classes + taken, minlength=num_classes**2).view(num_classes, num_classes)


def counts_of(matrix: Tensor) -> Tensor:
    """(C, C) -> (3, C): pixels in both, predicted, and true, of each class. Counts of pictures add up."""
    return torch.stack([matrix.diagonal(), matrix.sum(dim=0), matrix.sum(dim=1)])


def overlap_of(counts: Tensor) -> Overlap:
    """The scores of counts (3, C): IoU = both / (predicted + true - both).

    Source: Everingham et al. 2015, The PASCAL visual object classes challenge: a retrospective, section 3.
    A class that is neither true nor predicted anywhere is left out of the mean.

    Raises:
        ValueError: no pixel was counted.
    """
    if not int(counts[TRUE].sum()):
        raise ValueError("no pixel has a class, so nothing can be scored")
    rows = zip(*counts.tolist(), strict=True)
    iou = [both / (taken + true - both) if taken + true else None for both, taken, true in rows]
    known = [value for value in iou if value is not None]
    found = [both / true for both, _, true in zip(*counts.tolist(), strict=True) if true]
    accuracy = int(counts[BOTH].sum()) / int(counts[TRUE].sum())
    return Overlap(math.fsum(known) / len(known), accuracy, math.fsum(found) / len(found), iou)


def frequent_class_floor(train_pixels: Sequence[int], test_pixels: Sequence[int]) -> float:
    """Mean IoU of the class with most training pixels, said of every test pixel."""
    most = max(range(len(train_pixels)), key=lambda label: train_pixels[label])
    total = sum(test_pixels)
    taken = torch.zeros(len(test_pixels), dtype=torch.int64)
    taken[most] = total
    both = torch.zeros_like(taken)
    both[most] = test_pixels[most]
    return overlap_of(torch.stack([both, taken, torch.tensor(test_pixels)])).mean_iou


def resampled_mean_iou(counts: Tensor, draws: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Mean IoU of as many pictures, drawn with replacement: (draws,) float64, the same draws for all counts.

    Source: Efron 1979, Bootstrap methods: another look at the jackknife, section 2.

    Args:
        counts: (n, 3, C), of each picture.
    """
    found = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        times = _times_drawn(len(counts), range(start, min(start + DRAWS_AT_ONCE, draws)), seed)
        both, taken, true = np.moveaxis(np.tensordot(times, counts.numpy(), axes=1), 1, 0)
        union = taken + true - both
        known = union > 0
        shares = both / np.maximum(union, 1)
        found.append(shares.sum(axis=1) / np.maximum(known.sum(axis=1), 1))
    return np.concatenate(found)


def _times_drawn(num_pictures: int, draws: range, seed: int) -> np.ndarray:
    """How often each picture is in each of these draws: (len(draws), n) int64, n in all."""
    lanes = np.arange(draws.start, draws.stop)[:, None]
    words = keyed_words(seed, Stream.RESAMPLES, 0, np.arange(num_pictures), lanes)[0]
    chosen = (words * np.uint64(num_pictures) >> np.uint64(32)).astype(np.int64)
    places = chosen + num_pictures * np.arange(len(draws))[:, None]
    flat = np.bincount(places.ravel(), minlength=num_pictures * len(draws))
    return flat.reshape(len(draws), num_pictures)


def compare_overlaps(trained: Tensor, untrained: Tensor) -> dict[str, float | None]:
    """Difference of two mean IoUs over the same pictures, its bootstrap standard error, and their ratio.

    Pictures are drawn as if they were independent. Frames of one film are not: the error is then too small.

    Args:
        trained, untrained: (n, 3, C) counts of each picture.
    """
    difference = overlap_of(trained.sum(dim=0)).mean_iou - overlap_of(untrained.sum(dim=0)).mean_iou
    error = float((resampled_mean_iou(trained) - resampled_mean_iou(untrained)).std(ddof=1))
    return {
        "difference": difference,
        "standard_error": error,
        "z_score": difference / error if error else None,
    }
