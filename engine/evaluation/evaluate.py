"""Evaluation: a backbone's k-NN and linear probe against the untrained backbone and the floors."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.evaluation.backbone_source import BackboneSource, load_source
from viewmill.engine.evaluation.contenders import (
    TRAINED,
    contenders_of,
    gather_evidence,
    labels_of,
)
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.evaluation.floors import PROTOCOL as FLOORS_PROTOCOL
from viewmill.engine.evaluation.scores import Score, compare
from viewmill.engine.evaluation.tasks import KNN, LINEAR, Outcome, knn_outcomes, linear_outcome, parse_tasks
from viewmill.engine.evaluation.untrained import SEEDS, STATISTICS_IMAGES
from viewmill.engine.identity import content_hash
from viewmill.engine.passes.reading import Progress, Reading
from viewmill.engine.world import World
from viewmill.pipelines.executors.executor import resolved_name
from viewmill.shards.manifest import Dataset

SUMMARY_FILE = "summary.json"


def evaluate(
    source: Path | str,
    train_dataset: Dataset,
    test_dataset: Dataset,
    tasks: Sequence[str] = (KNN, LINEAR),
    *,
    world: World,
    out: Path | str | None = None,
    executor: str = "auto",
    num_threads: int = 2,
    batch_size: int = 64,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Measures a backbone and writes out/evaluation/: summary.json, and details in knn.json and linear.json.

    Every rank calls it and gets the result; each holds the features of both data sets. Features are kept
    under out/evaluation/cache and used again while weights, images and views stay the same. An evaluation
    takes the place of the one before it.

    Args:
        source: a run's folder (its newest checkpoint that verifies), a checkpoint's folder, or timm:NAME.
        train_dataset: the labelled bank of k-NN, and what the probe is fitted to.
        test_dataset: what is predicted; another data set with the same classes.
        tasks: "knn" (k = 20 and 200), "knn@K", "linear".
        out: None is the run's folder.
        image_size: side of the views, pixels; None is that of the run's global views.
        progress: called with what is read, samples done, samples in all.

    Returns:
        The entries of summary.json: task, n (test images), trained, untrained (the best of three seeds),
        floors {raw_pixels, histogram}, standard_error and z_score of trained - untrained (paired over the
        test images), trained_top5 and untrained_top5 (None with five classes or fewer). Accuracies are
        shares of 1.

    Raises:
        ValueError: no such task, data sets that do not belong together or lack labels, k larger than the
            train data set, or a size that the backbone does not take.
        FileNotFoundError, CheckpointError: see `load_source`. RankError: another rank failed.
    """
    ks, wants_linear = parse_tasks(tasks)
    check_data_sets(train_dataset, test_dataset, ks)
    found = load_source(source, world)
    folder = output_folder(found, out)
    views = evaluation_views(image_size or found.image_size, found.mean, found.std)
    check_image_sizes(found.backbone, views.sizes)
    reading = Reading(world, executor, num_threads, batch_size, progress)
    contenders = contenders_of(found, train_dataset)
    evidence = gather_evidence(
        contenders, train_dataset, test_dataset, views, reading, TensorCache(folder / "cache")
    )
    groups = {KNN: knn_outcomes(evidence, ks, world)}
    own = found.classifier
    if own is not None and own.data_set_hash != train_dataset.data_set_hash:
        own = None  # whether its classes are these is not known
    groups[LINEAR] = [linear_outcome(evidence, world, own)] if wants_linear else []
    about = {
        "source": found.name,
        "step": found.step,
        "checkpoints_passed_over": found.passed_over,
        "backbone": found.about,
        "weights_hash": contenders[0].identity["weights"],
        "views": views.name,
        "executor": resolved_name(executor, reading.executor_device),
        "data_sets": {"train": described(train_dataset), "test": described(test_dataset)},
        "classes": list(test_dataset.classes),
        "untrained": {
            "choice": "the best top-1 of each task",
            "seeds": list(SEEDS),
            "statistics_images": min(STATISTICS_IMAGES, train_dataset.num_samples),
        },
        "floors": {"protocol": FLOORS_PROTOCOL, **evidence.floors},
    }
    entries = [entry_of(outcome, evidence.floors) for outcomes in groups.values() for outcome in outcomes]
    from_rank_zero(world, lambda: write_evaluation(folder, entries, groups, about))
    return entries


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


def output_folder(found: BackboneSource, out: Path | str | None) -> Path:
    """Where the evaluation goes.

    Raises:
        ValueError: the source is in no run, and no folder is given.
    """
    if out is None and found.folder is None:
        raise ValueError(f"{found.name} belongs to no run; say where the evaluation goes with --out DIR")
    return Path(out or found.folder or "") / "evaluation"


def entry_of(outcome: Outcome, floors: dict[str, float]) -> dict[str, Any]:
    """The line of a task in summary.json."""
    trained, (_, rival) = outcome.scores[TRAINED], best_untrained(outcome)
    against = compare(trained, rival)
    return {
        "task": outcome.task,
        "n": len(trained.correct),
        "trained": trained.top1,
        "untrained": rival.top1,
        "floors": floors,
        "standard_error": against["standard_error"],
        "z_score": against["z_score"],
        "trained_top5": trained.top5,
        "untrained_top5": rival.top5,
    }


def best_untrained(outcome: Outcome) -> tuple[str, Score]:
    """The untrained contender with the highest top-1; of equal ones the first seed's."""
    rivals = [(name, score) for name, score in outcome.scores.items() if name != TRAINED]
    return max(rivals, key=lambda rival: rival[1].top1)


def details_of(outcome: Outcome) -> dict[str, Any]:
    """All that was measured in a task."""
    name, rival = best_untrained(outcome)
    return {
        "task": outcome.task,
        "protocol": outcome.protocol,
        **outcome.settings,
        "best_untrained": name,
        "trained_minus_untrained": compare(outcome.scores[TRAINED], rival),
        "contenders": {
            name: {
                "top1": score.top1,
                "top5": score.top5,
                **outcome.notes[name],
                "per_class_top1": score.per_class,
            }
            for name, score in outcome.scores.items()
        },
    }


def described(dataset: Dataset) -> dict[str, Any]:
    return {"images": dataset.num_samples, "data_set_hash": dataset.data_set_hash}


def write_evaluation(
    folder: Path, entries: list[dict[str, Any]], groups: dict[str, list[Outcome]], about: dict[str, Any]
) -> None:
    """Details first, summary last; details of tasks that were not run go, as their lines in the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, outcomes in groups.items():
        path = folder / f"{group}.json"
        if outcomes:
            _write_json(path, {**about, "tasks": [details_of(outcome) for outcome in outcomes]})
        else:
            path.unlink(missing_ok=True)
    _write_json(folder / SUMMARY_FILE, entries)


def _write_json(path: Path, tree: Any) -> None:
    """The file is complete under its name, or as it was."""
    aside = path.with_name(f"{path.name}.partial")
    aside.write_text(json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)


def _difference(train: Dataset, test: Dataset) -> str:
    """Which classes only one of two data sets has."""
    told = []
    for dataset, other in ((train, test), (test, train)):
        alone = [name for name in dataset.classes if name not in set(other.classes)]
        if alone:
            more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
            told.append(f"only {PurePath(dataset.shown).name} has {', '.join(alone[:5])}{more}")
    return "; ".join(told) or "the same names in another order; convert both with the same class level"
