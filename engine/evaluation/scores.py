"""From predictions to accuracies, and from two sets of predictions to whether they differ."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from viewmill.engine.evaluation.knn import TOP


@dataclass(frozen=True)
class Score:
    """How well one ranking of classes fits the labels; accuracies are shares of 1."""

    top1: float
    top5: float | None  # None where there are no more than five classes: it would always be 1
    per_class: list[float | None]  # top-1 by class; None for a class without test images
    correct: Tensor  # (n,) bool


def score(ranked: Tensor, labels: Tensor, num_classes: int) -> Score:
    """The score of a ranking.

    Args:
        ranked: (n, up to 5) int64, the best class first; -1: no class.
        labels: (n,) int64 in 0 .. num_classes - 1.
    """
    hits = ranked == labels[:, None]
    right, present = (
        torch.bincount(chosen, minlength=num_classes).tolist() for chosen in (labels[hits[:, 0]], labels)
    )
    return Score(
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(dim=1).double().mean().item() if num_classes > TOP else None,
        per_class=[
            round(found / count, 6) if count else None for found, count in zip(right, present, strict=True)
        ],
        correct=hits[:, 0],
    )


def top_classes(logits: Tensor) -> Tensor:
    """(n, C) -> (n, min(5, C)) the best classes first; of equal ones the lower number first."""
    return logits.sort(dim=1, descending=True, stable=True).indices[:, :TOP]


def paired_standard_error(correct: Tensor, other: Tensor) -> float:
    """Standard error of the difference of two accuracies over the same images.

    With d_i = correct_i - other_i in {-1, 0, 1}:  sqrt( sum_i (d_i - mean d)^2 / (n - 1) / n ).
    Both nets tend to fail on the same images, so it is smaller than that of two independent samples.

    Args:
        correct, other: (n,) bool, n >= 2.
    """
    difference = correct.double() - other.double()
    return math.sqrt(difference.var(correction=1).item() / len(difference))


def independent_standard_error(accuracy: float, other: float, n: int) -> float:
    """The binomial one, as if the two were measured on different images: sqrt((p (1-p) + q (1-q)) / n)."""
    return math.sqrt((accuracy * (1 - accuracy) + other * (1 - other)) / n)


def compare(trained: Score, untrained: Score) -> dict[str, Any]:
    """Difference, its standard errors, and how many of the paired one it is (None: both fail alike)."""
    n, difference = len(trained.correct), trained.top1 - untrained.top1
    error = paired_standard_error(trained.correct, untrained.correct)
    return {
        "difference": difference,
        "standard_error": error,
        "standard_error_independent": independent_standard_error(trained.top1, untrained.top1, n),
        "z_score": difference / error if error else None,
    }
