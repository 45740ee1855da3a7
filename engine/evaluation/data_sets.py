"""Which data sets can be evaluated together, and how they are told apart."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from viewmill.engine.evaluation.contenders import labels_of
from viewmill.engine.identity import content_hash
from viewmill.shards.manifest import Dataset


def check_data_sets(train: Dataset, test: Dataset, ks: Sequence[int]) -> None:
    """Refuses data sets on which an accuracy would mean nothing.

    Raises:
        ValueError: other classes in one of them, one and the same data set, unlabelled or too few images.
    """
    if train.classes != test.classes:
        raise ValueError(f"{train.shown} and {test.shown} have other classes: {_difference(train, test)}")
    if content_hash(train) == content_hash(test):
        raise ValueError(
            f"{train.shown} and {test.shown} hold the same images: every image would find itself; give a "
            "test set"
        )
    for dataset in (train, test):
        unlabelled = int((labels_of(dataset) < 0).sum())
        if unlabelled:
            raise ValueError(
                f"{dataset.shown}: {unlabelled} of {dataset.num_samples} images have no label; convert from "
                "a folder with one folder a class"
            )
    if ks and max(ks) > train.num_samples:
        raise ValueError(
            f"knn@{max(ks)} needs {max(ks)} training images, {train.shown} has {train.num_samples}; "
            f"take a smaller k, such as the tasks knn@{min(20, train.num_samples)},linear"
        )
    if test.num_samples < 2:
        raise ValueError(f"{test.shown}: one image has no standard error; convert more images")


def described(dataset: Dataset) -> dict[str, Any]:
    """What is told of a data set."""
    return {"images": dataset.num_samples, "data_set_hash": dataset.data_set_hash}


def _difference(train: Dataset, test: Dataset) -> str:
    """Which classes only one of two data sets has."""
    told = []
    for dataset, other in ((train, test), (test, train)):
        alone = [name for name in dataset.classes if name not in set(other.classes)]
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            told.append(f"only {PurePath(dataset.shown).name} has {', '.join(alone[:5])}{more}")
    return "; ".join(told) or "the same names in another order; convert both with the same class level"
