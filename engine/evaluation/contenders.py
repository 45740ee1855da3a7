"""The backbones that an evaluation compares, and all that is computed from images to compare them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.features import extract_all
from viewmill.engine.evaluation.floors import PROTOCOL, floor_accuracies, thumbnails
from viewmill.engine.evaluation.untrained import (
    SEEDS,
    STATISTICS_BATCH,
    STATISTICS_IMAGES,
    estimate_batchnorm,
    fresh_backbone,
    has_batchnorm,
)
from viewmill.engine.identity import content_hash, weights_hash
from viewmill.engine.passes.reading import Reading, together
from viewmill.pipelines.executors.executor import resolved_name
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

TRAINED, TRAIN, TEST = "trained", "train", "test"


@dataclass(frozen=True)
class Contender:
    """One backbone; `identity` holds all that its numbers depend on beside images and views."""

    name: str
    backbone: nn.Module
    identity: Key
    seed: int | None  # of an untrained one


@dataclass(frozen=True)
class Evidence:
    """Features by contender's name, labels and floors: what the tasks work on, the same on every rank."""

    bank: dict[str, Tensor]  # (N, F) float32, of the train data set; empty where no task learns from it
    queries: dict[str, Tensor]  # (n, F) float32, of the test data set
    bank_labels: Tensor  # (N,) int64
    query_labels: Tensor  # (n,) int64
    num_classes: int
    floors: dict[str, float]  # top-1; empty as the bank


def contenders_of(source: BackboneSource, train: Dataset) -> list[Contender]:
    """The trained backbone, and an untrained one of its structure a seed.

    The BatchNorm statistics of the untrained ones are estimated when their features are first needed.
    """
    found = [Contender(TRAINED, source.backbone, _identity(source, source.backbone), seed=None)]
    for seed in SEEDS:
        backbone = fresh_backbone(source.build, seed)
        identity = _identity(source, backbone)
        if has_batchnorm(backbone):
            identity["statistics"] = [content_hash(train), STATISTICS_IMAGES, STATISTICS_BATCH]
        found.append(Contender(f"untrained seed {seed}", backbone, identity, seed))
    return found


def gather_evidence(
    contenders: Sequence[Contender],
    train: Dataset,
    test: Dataset,
    views: ViewSpec,
    reading: Reading,
    cache: TensorCache,
    *,
    with_bank: bool = True,
    classes: Sequence[int] | None = None,
) -> Evidence:
    """Features of every contender on both data sets, and the floors; what the cache has is not computed.

    Args:
        with_bank: whether a task learns from the train data set; else its images give BatchNorm statistics at
            most, and there are no floors.
        classes: numbers of those that are compared, which become 0, 1, ... in this order; None: all. Images
            of others are left out, after their features went to the cache.

    Raises:
        RankError, ShardError, ImageError, RuntimeError: see `extract_all` and `thumbnails`.
    """
    sides = {TRAIN: train, TEST: test} if with_bank else {TEST: test}
    keys = {
        (contender.name, side): _features_key(contender, dataset, views, reading)
        for contender in contenders
        for side, dataset in sides.items()
    }
    lacking = _lacking(keys, cache, reading)
    names = {name for name, _ in lacking}
    newborn = [other.backbone for other in contenders if other.seed is not None and other.name in names]
    together(reading.world, lambda: estimate_batchnorm(newborn, train, views, reading))
    features: dict[str, dict[str, Tensor]] = {}
    for side, dataset in sides.items():
        todo = [contender for contender in contenders if (contender.name, side) in lacking]
        made = _extracted(todo, dataset, views, reading, f"{side} images")
        features[side] = {
            other.name: _kept(keys[other.name, side], made.get(other.name), reading, cache)
            for other in contenders
        }
    chosen = range(len(train.classes)) if classes is None else classes
    rows: dict[str, Tensor | slice] = {}
    labels: dict[str, Tensor] = {}
    for side, dataset in ((TRAIN, train), (TEST, test)):
        rows[side], labels[side] = rows_of_classes(labels_of(dataset), chosen)
    floors: dict[str, float] = {}
    if with_bank:
        small = {
            side: _thumbnails(side, dataset, reading, cache)[rows[side]] for side, dataset in sides.items()
        }
        floors = floor_accuracies(small[TRAIN], labels[TRAIN], small[TEST], labels[TEST], len(chosen))
    bank, queries = (
        {name: rows_of_all[rows[side]] for name, rows_of_all in features.get(side, {}).items()}
        for side in (TRAIN, TEST)
    )
    return Evidence(bank, queries, labels[TRAIN], labels[TEST], len(chosen), floors)


def trained_features(
    source: BackboneSource,
    dataset: Dataset,
    views: ViewSpec,
    reading: Reading,
    cache: TensorCache,
    what: str = "images",
) -> Tensor:
    """(N, F) of the backbone alone, from the cache where an evaluation has left them there.

    Raises:
        RankError, ShardError, ImageError, RuntimeError: see `extract_all`.
    """
    alone = Contender(TRAINED, source.backbone, _identity(source, source.backbone), seed=None)
    key = _features_key(alone, dataset, views, reading)
    there = from_rank_zero(reading.world, partial(cache.has, key))
    made = {} if there else _extracted([alone], dataset, views, reading, what)
    return _kept(key, made.get(TRAINED), reading, cache)


def rows_of_classes(labels: Tensor, classes: Sequence[int]) -> tuple[Tensor | slice, Tensor]:
    """Rows of the images of these classes, and their labels in the order of `classes`."""
    place = torch.full((max([*classes, int(labels.max()) if len(labels) else 0]) + 1,), -1)
    place[list(classes)] = torch.arange(len(classes))
    moved = place[labels]
    if bool((moved >= 0).all()):
        return slice(None), moved  # all: nothing is copied
    rows = (moved >= 0).nonzero().flatten()
    return rows, moved[rows]


def labels_of(dataset: Dataset) -> Tensor:
    """(N,) int64, in id order."""
    return torch.from_numpy(dataset.labels(np.arange(dataset.num_samples)))


def _identity(source: BackboneSource, backbone: nn.Module) -> Key:
    return {"about": source.about, "weights": weights_hash(backbone)}


def _features_key(contender: Contender, dataset: Dataset, views: ViewSpec, reading: Reading) -> Key:
    return {
        "what": "features",
        "backbone": contender.identity,
        "data": content_hash(dataset),
        # All numbers of the views, not their name alone.
        "views": repr(views),
        "executor": [resolved_name(reading.executor, reading.executor_device), reading.executor_device],
    }


def _lacking(keys: dict[tuple[str, str], Key], cache: TensorCache, reading: Reading) -> set[tuple[str, str]]:
    """Those that the cache does not have, as rank 0 sees it."""

    def look() -> list[tuple[str, str]]:
        return [place for place, key in keys.items() if not cache.has(key)]

    return {(name, side) for name, side in from_rank_zero(reading.world, look)}


def _extracted(
    todo: Sequence[Contender], dataset: Dataset, views: ViewSpec, reading: Reading, what: str
) -> dict[str, Tensor]:
    """Features by name, all from one pass."""
    if not todo:
        return {}
    found = extract_all([contender.backbone for contender in todo], dataset, views, reading, what)
    return {contender.name: made.features for contender, made in zip(todo, found, strict=True)}


def _kept(key: Key, made: Tensor | None, reading: Reading, cache: TensorCache) -> Tensor:
    """What was just made, after the cache has it; or what the cache has."""
    if made is None:
        return together(reading.world, partial(cache.load, key))
    from_rank_zero(reading.world, partial(cache.store, key, made))
    return made


def _thumbnails(side: str, dataset: Dataset, reading: Reading, cache: TensorCache) -> Tensor:
    """(N, 32, 32, 3) uint8."""
    key: Key = {"what": "thumbnails", "protocol": PROTOCOL, "data": content_hash(dataset)}
    there = from_rank_zero(reading.world, partial(cache.has, key))
    made = None if there else thumbnails(dataset, reading, f"{side} thumbnails")
    return _kept(key, made, reading, cache)
