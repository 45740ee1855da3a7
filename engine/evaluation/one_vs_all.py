"""One linear support vector machine a class, each with a cost of its own, scored by average precision.

The protocol of VOC07 classification (Goyal et al. 2019, Scaling and benchmarking self-supervised visual
representation learning, appendix B) on data sets of one label an image.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COSTS = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 3
POSITIVE_WEIGHT = 2.0  # positives are few
PROTOCOL = f"svm-v1/unit-vectors/squared-hinge/positives-{POSITIVE_WEIGHT:g}/{FOLDS}-folds"


@dataclass(frozen=True)
class ClassPrecision:
    """One class: average precision on the test images (None: none is of it), and the cost chosen."""

    average_precision: float | None
    cost: float


def class_precision(
    bank: np.ndarray,
    is_class: np.ndarray,
    queries: np.ndarray,
    is_asked: np.ndarray,
    costs: Sequence[float] = COSTS,
) -> ClassPrecision:
    """One machine: the cost of the best mean average precision over three folds of train, then all of it.

    Equal precisions give the smaller cost. The solver is scikit-learn's (liblinear).

    Args:
        bank: (N, F) unit vectors; is_class: (N,) bool. queries: (n, F) unit vectors; is_asked: (n,) bool.

    Raises:
        ValueError: fewer than three images of the class, or of the others.
    """
    from sklearn.metrics import average_precision_score

    if min(is_class.sum(), (~is_class).sum()) < FOLDS:
        raise ValueError(
            f"svm chooses its cost by {FOLDS} folds, and a class has {int(is_class.sum())} of "
            f"{len(is_class)} training images; convert more images, or leave out svm"
        )
    fold = folds_of(is_class)
    found = {}
    for cost in costs:
        margins = [(one, _fitted(bank[fold != one], is_class[fold != one], cost)) for one in range(FOLDS)]
        found[cost] = np.mean(
            [
                average_precision_score(is_class[fold == one], machine.decision_function(bank[fold == one]))
                for one, machine in margins
            ]
        )
    cost = max(found, key=lambda one: (found[one], -one))
    if not is_asked.any():
        return ClassPrecision(None, cost)
    margin = _fitted(bank, is_class, cost).decision_function(queries)
    return ClassPrecision(float(average_precision_score(is_asked, margin)), cost)


def folds_of(is_class: np.ndarray) -> np.ndarray:
    """The fold of each row: positives and negatives are dealt out in turn; (N,) int64."""
    fold = np.empty(len(is_class), dtype=np.int64)
    for side in (is_class, ~is_class):
        fold[side] = np.arange(side.sum()) % FOLDS
    return fold


def _fitted(rows: np.ndarray, is_class: np.ndarray, cost: float) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    machine = LinearSVC(
        C=cost, class_weight={True: POSITIVE_WEIGHT, False: 1.0}, dual="auto", max_iter=2000, random_state=0
    )
    with warnings.catch_warnings():
        # At a cost that is too large; the folds do not choose it then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return machine.fit(rows, is_class)
