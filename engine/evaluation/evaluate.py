"""Evaluation: what a backbone's representations are worth and look like, beside the untrained backbone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.evaluation.backbone_source import BackboneSource, load_source
from viewmill.engine.evaluation.contenders import (
    contenders_of,
    gather_evidence,
    labels_of,
    rows_of_classes,
)
from viewmill.engine.evaluation.crops.protocol import CropOptions
from viewmill.engine.evaluation.crops.task import Say, crops_of, crops_outcome, rivals, tell_cost
from viewmill.engine.evaluation.data_sets import check_data_sets, class_numbers, described
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.evaluation.floors import PROTOCOL as FLOORS_PROTOCOL
from viewmill.engine.evaluation.low_shot import check_shares
from viewmill.engine.evaluation.measured import (
    Meanings,
    Measured,
    check_has_method,
    diagnosis_outcome,
    geometry_outcome,
    semantics_outcome,
)
from viewmill.engine.evaluation.probes import low_shot_outcomes, sgd_outcome, svm_outcome
from viewmill.engine.evaluation.summary import entry_of, write_evaluation
from viewmill.engine.evaluation.tasks import (
    CROPS,
    DIAGNOSIS,
    GEOMETRY,
    KNN,
    LINEAR,
    LOW_SHOT,
    SEMANTICS,
    SGD,
    SVM,
    Outcome,
    knn_outcomes,
    linear_outcome,
    parse_tasks,
)
from viewmill.engine.evaluation.untrained import SEEDS, STATISTICS_IMAGES
from viewmill.engine.passes.reading import Progress, Reading
from viewmill.engine.world import World
from viewmill.pipelines.executors.executor import resolved_name
from viewmill.shards.manifest import Dataset


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
    classes: Sequence[str] | None = None,
    wordnet: Path | None = None,
    synsets: Path | None = None,
    crops: CropOptions | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> list[dict[str, Any]]:
    """Measures a backbone and writes out/evaluation/: summary.json, and details in a file a kind of task.

    Every rank calls it and gets the result; each holds the features of both data sets. Features are kept
    under out/evaluation/cache and used again while weights, images and views stay the same. An evaluation
    takes the place of the one before it.

    Args:
        source: a run's folder (its newest checkpoint that verifies), a checkpoint's folder, or timm:NAME.
        train_dataset: the labelled bank of k-NN, and what the probe is fitted to.
        test_dataset: what is predicted; another data set with the same classes.
        tasks: "knn" (k = 20 and 200), "knn@K", "linear", "lowshot" (1 and 10 percent of the labels),
            "lowshot@PERCENT", "sgd", "svm", "crops@PROTOCOL" (see `PROTOCOLS`); of the test images alone
            "geometry", "semantics", "wordnet" (semantics without the text model) and "diagnosis" (of a run
            or checkpoint).
        out: None is the run's folder.
        image_size: side of the views, pixels; None is that of the run's global views.
        classes: names of those that are compared; None: all. A diagnosis is of all images.
        wordnet: folder or zip of WordNet 3.0, of semantics; None: where NLTK keeps it.
        synsets: YAML of class names and their synsets, of semantics.
        crops: what is changed of the protocols of crops; a task of these must be asked for.
        progress: called with what is read, samples done, samples in all.
        say: called on rank 0 with a line before long work: what it will cost.

    Returns:
        The entries of summary.json: task, n (test images), trained, untrained (the best of three seeds),
        floors {raw_pixels, histogram}, standard_error and z_score of trained - untrained (paired over the
        test images), trained_top5 and untrained_top5 (None with five classes or fewer). Accuracies are
        shares of 1. Crops without an untrained backbone have None for it and for the difference. A task of
        the test images alone has None for all of them, and `measures`: by name
        {trained, untrained}.

    Raises:
        ValueError: no such task, data sets that do not belong together or lack labels, k larger than the
            train data set, a size that the backbone does not take, or classes without a meaning.
        FileNotFoundError, CheckpointError: see `load_source` and `meaning_distances`.
        RuntimeError: the text model of semantics is not installed. RankError: another rank failed.
    """
    wanted = parse_tasks(tasks)
    if crops is not None and not wanted.crops:
        raise ValueError(f"{CROPS}: epochs, rates or untrained backbones are set; add {CROPS} to the tasks")
    numbers = None if classes is None else class_numbers(test_dataset, classes)
    check_data_sets(train_dataset, test_dataset, wanted.ks, numbers)
    known = rows_of_classes(labels_of(train_dataset), numbers or range(len(train_dataset.classes)))[1]
    check_shares(known, wanted.percents, train_dataset.shown)
    found = load_source(source, world)
    folder = output_folder(found, out)
    views = evaluation_views(image_size or found.image_size, found.mean, found.std)
    check_image_sizes(found.backbone, views.sizes)
    if DIAGNOSIS in wanted.others:
        check_has_method(found)
    names = list(test_dataset.classes) if classes is None else list(classes)
    meanings = Meanings(names, wanted, wordnet, synsets, world)
    reading = Reading(world, executor, num_threads, batch_size, progress)
    contenders = contenders_of(found, train_dataset)
    cache = TensorCache(folder / "cache")
    options, size = crops or CropOptions(), image_size or found.image_size
    on_crops = [
        crops_of(name, options, train_dataset, numbers, found, size, reading, cache, say)
        for name in wanted.crops
    ]
    for one in on_crops:
        tell_cost(one, rivals(contenders, options))
    evidence = gather_evidence(
        contenders,
        train_dataset,
        test_dataset,
        views,
        reading,
        cache,
        with_bank=wanted.needs_bank,
        classes=numbers,
    )
    own = found.classifier
    if own is not None and (numbers or own.data_set_hash != train_dataset.data_set_hash):
        own = None  # its classes are others, or whether they are these is not known
    groups: dict[str, list[Outcome | Measured]] = {
        KNN: [*knn_outcomes(evidence, wanted.ks, world)],
        LINEAR: [linear_outcome(evidence, world, own)] if LINEAR in wanted.others else [],
        LOW_SHOT: [*low_shot_outcomes(evidence, wanted.percents, world)],
        SGD: [sgd_outcome(evidence, world)] if SGD in wanted.others else [],
        SVM: [svm_outcome(evidence, world)] if SVM in wanted.others else [],
        CROPS: [crops_outcome(one, rivals(contenders, options), evidence, views) for one in on_crops],
        GEOMETRY: [geometry_outcome(evidence, world)] if GEOMETRY in wanted.others else [],
        SEMANTICS: [semantics_outcome(evidence, task, meanings, world) for task in meanings.tasks],
        DIAGNOSIS: [],
    }
    tensors: dict[str, Tensor] = {}
    if DIAGNOSIS in wanted.others:
        outcome, tensors = diagnosis_outcome(found, test_dataset, reading, image_size)
        groups[DIAGNOSIS].append(outcome)
    about = {
        "source": found.name,
        "step": found.step,
        "checkpoints_passed_over": found.passed_over,
        "backbone": found.about,
        "weights_hash": contenders[0].identity["weights"],
        "views": views.name,
        "executor": resolved_name(executor, reading.executor_device),
        "data_sets": {"train": described(train_dataset), "test": described(test_dataset)},
        "classes": names,
        "untrained": {
            "choice": "the best top-1 of each task; of figures as each says in untrained_is",
            "seeds": list(SEEDS),
            "statistics_images": min(STATISTICS_IMAGES, train_dataset.num_samples),
        },
        "floors": {"protocol": FLOORS_PROTOCOL, **evidence.floors},
    }
    entries = [entry_of(outcome, evidence.floors) for outcomes in groups.values() for outcome in outcomes]
    from_rank_zero(world, lambda: write_evaluation(folder, entries, groups, about, tensors))
    return entries


def output_folder(found: BackboneSource, out: Path | str | None) -> Path:
    """Where the evaluation goes.

    Raises:
        ValueError: the source is in no run, and no folder is given.
    """
    if out is None and found.folder is None:
        raise ValueError(f"{found.name} belongs to no run; say where the evaluation goes with --out DIR")
    return Path(out or found.folder or "") / "evaluation"
