"""Which data sets can be evaluated together, and how they are told apart."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from viewmill.engine.evaluation.contenders import labels_of
from viewmill.engine.identity import content_hash
from viewmill.shards.manifest import Dataset


def check_data_sets(
    train: Dataset, test: Dataset, ks: Sequence[int], classes: Sequence[int] | None = None
) -> None:
    """Refuses data sets on which an accuracy would mean nothing.

    Args:
        classes: numbers of those that are compared; None: all.

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
    known, asked = (_count(dataset, classes) for dataset in (train, test))
    if ks and max(ks) > known:
        raise ValueError(
            f"knn@{max(ks)} needs {max(ks)} training images, {train.shown} has {known}; "
            f"take a smaller k, such as the tasks knn@{min(20, known)},linear"
        )
    if asked < 2:
        raise ValueError(f"{test.shown}: one image has no standard error; convert more images")


def class_numbers(dataset: Dataset, names: Sequence[str]) -> list[int]:
    """Numbers of the classes of these names, in their order.

    Raises:
        ValueError: a name that is no class (names the nearest), or twice, or fewer than two.
    """
    known = {name: number for number, name in enumerate(dataset.classes)}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(
                f"{dataset.shown} has no class '{name}'; the nearest is '{near[0] if near else ''}'"
            )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"a subset needs two classes at least and each once, got {len(names)}: {names[:5]}")
    return [known[name] for name in names]


def read_class_names(text: str) -> list[str]:
    """Names with commas between, or of a file with one a line (blank lines and # comments apart)."""
    path = Path(text)
    if not path.is_file():
        return [name.strip() for name in text.split(",") if name.strip()]
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _count(dataset: Dataset, classes: Sequence[int] | None) -> int:
    """Images of these classes."""
    return dataset.num_samples if classes is None else int(np.isin(labels_of(dataset).numpy(), classes).sum())


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
