"""Where a teacher's clusters come from: a distillation's checkpoint, a file of prototypes, or k-means."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.checkpoints.folder import Checkpoint
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.features import evaluation_views, ready
from viewmill.engine.export import TEACHER_PREFIX
from viewmill.engine.identity import content_hash, weights_hash
from viewmill.engine.method_config import DistillConfig
from viewmill.engine.model import build_student
from viewmill.engine.passes.cluster_prior import ClusterModel, Streaming
from viewmill.engine.passes.kmeans import spherical_kmeans
from viewmill.engine.passes.prior_file import read_prior
from viewmill.engine.passes.reading import Reading, together
from viewmill.engine.scheduled import value_at
from viewmill.engine.teacher import Teacher
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

STATISTIC_PREFIX = "method.statistic."  # of the method's own prior or centre in a checkpoint


def clusters_of_checkpoint(
    checkpoint: Checkpoint, device: torch.device, image_size: int | None = None
) -> ClusterModel | None:
    """The teacher of a distillation, its temperature and streaming prior; None: it trained another method.

    The teacher is in evaluation mode: BatchNorm takes its running statistics, not those of a batch as in
    training, so that the prior does not depend on which images stand beside each other.

    Args:
        image_size: side of the views, pixels; None: that of the run's global views.

    Raises:
        ValueError: the teacher's features are normalised by the batch, so it has no prior of its own.
        CheckpointError: the checkpoint lacks a part of the teacher.
    """
    where = checkpoint.path.name
    config = config_from(checkpoint.state["config"], where=where)
    if not isinstance(config.method, DistillConfig):
        return None
    if config.method.normalization == "batchnorm":
        raise ValueError(
            f"{where} was trained with method.normalization=batchnorm: its targets know no prior; train with "
            "another, or give --clusters K to make clusters of its backbone"
        )
    spec = resolve_views(config)
    buffers = checkpoint.buffers()
    teacher = teacher_of(config, spec.sizes[0], buffers, where).to(device).eval()
    views = evaluation_views(image_size or spec.sizes[0], spec.mean, spec.std)
    check_image_sizes(teacher.backbone, views.sizes)
    epoch = int(checkpoint.state["loader"]["epoch"])
    return ClusterModel(
        name=where,
        logits=lambda images: teacher.head(teacher([images])[0]),
        num_clusters=config.method.num_clusters,
        views=views,
        about={"teacher": weights_hash(teacher), "backbone": config.model.backbone},
        temperature=value_at(config.method.teacher_temperature, epoch, config.epochs),
        streaming=streaming_prior(config.method, buffers),
    )


def teacher_of(config: RunConfig, image_size: int, buffers: dict[str, Tensor], where: str) -> Teacher:
    """The teacher of a distillation's checkpoint, on the CPU. Raises CheckpointError where a part lacks."""
    assert isinstance(config.method, DistillConfig)  # the caller has asked
    student = build_student(config.model, config.method, image_size=image_size, seed=0)
    teacher = Teacher(student, config.method.teacher, config.precision)
    prefix = TEACHER_PREFIX
    try:
        teacher.load_state_dict(
            {name.removeprefix(prefix): value for name, value in buffers.items() if name.startswith(prefix)}
        )
    except RuntimeError as error:
        raise CheckpointError(f"{where}: its teacher is not whole: {error}") from error
    return teacher


def streaming_prior(method: DistillConfig, buffers: dict[str, Tensor]) -> Streaming | None:
    """The prior of the last whole window of epochs, or of what was summed so far; None: none is kept."""
    found = {name: buffers.get(STATISTIC_PREFIX + name) for name in ("mean", "rows", "sums", "summed")}
    if method.normalization != "prior" or method.scope.kind != "streaming":
        return None
    mean, rows, sums, summed = (torch.as_tensor(value) for value in found.values())
    rows, mean = (rows, mean) if rows > 0 else (summed, sums / summed)
    if not rows > 0:
        return None  # saved before the first step
    return Streaming(mean.clamp(min=1 / (float(rows) * len(mean))).log(), int(rows))


def clusters_of_backbone(
    found: BackboneSource, prototypes: Tensor, device: torch.device, image_size: int | None = None
) -> ClusterModel:
    """Logits w_k . f(x)/|f(x)| of a backbone's representations and given directions (K, F).

    Raises:
        ValueError: prototypes of another width.
    """
    backbone = ready(found.backbone, device)
    if prototypes.ndim != 2 or prototypes.shape[1] != backbone.num_features:
        raise ValueError(
            f"prototypes {tuple(prototypes.shape)} are not (K, {backbone.num_features}), which "
            f"{found.name} has; make them anew with --clusters K"
        )
    directions = F.normalize(prototypes.float(), dim=1)
    there = directions.to(device)
    digest = hashlib.sha256(directions.contiguous().numpy().tobytes()).hexdigest()
    return ClusterModel(
        name=found.name,
        logits=lambda images: F.linear(F.normalize(backbone(images).float(), dim=1), there),
        num_clusters=len(directions),
        views=_views_of(found, image_size),
        about={**found.about, "weights": weights_hash(backbone), "prototypes": digest},
        prototypes=directions,
    )


def prototypes_in(path: Path) -> Tensor:
    """The prototypes (K, F) that are kept in a prior's file.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it holds none.
    """
    prior = read_prior(path)
    if prior.prototypes is None:
        raise ValueError(f"{path}: holds no prototypes; it was made of a checkpoint that has its own")
    return prior.prototypes


@dataclass(frozen=True)
class MadePrototypes:
    """Prototypes by k-means: (K, F) float32."""

    prototypes: Tensor
    told: str  # in a line, how it went


def prototypes_by_kmeans(
    found: BackboneSource,
    dataset: Dataset,
    num_clusters: int,
    *,
    reading: Reading,
    folder: Path,
    image_size: int | None = None,
    seed: int = 0,
) -> MadePrototypes:
    """`spherical_kmeans` on images of the data set; every rank calls it and has the same.

    Args:
        folder: keeps them, so that a pass that was killed goes on with the same to the bit.

    Raises:
        ValueError, RuntimeError, RankError: see `spherical_kmeans`.
    """
    views, cache = _views_of(found, image_size), TensorCache(folder)
    check_image_sizes(found.backbone, views.sizes)
    backbone = ready(found.backbone, reading.world.device)
    about: dict[str, Any] = {**found.about, "weights": weights_hash(backbone)}
    key: Key = {"what": "prototypes", "model": about, "data": content_hash(dataset), "views": repr(views)}
    key |= {"clusters": num_clusters, "seed": seed}
    if from_rank_zero(reading.world, lambda: cache.has(key)):
        return MadePrototypes(together(reading.world, lambda: cache.load(key)), "prototypes: as made before")
    made = spherical_kmeans(backbone, dataset, num_clusters, views=views, reading=reading, seed=seed)
    from_rank_zero(reading.world, lambda: cache.store(key, made.prototypes))
    told = (
        f"prototypes: k-means of {made.num_samples} images, mean cosine {made.fits[0]:.4f} -> "
        f"{made.fits[-1]:.4f} in {len(made.fits)} iterations, {made.num_empty} empty"
    )
    return MadePrototypes(together(reading.world, lambda: cache.load(key)), told)


def _views_of(found: BackboneSource, image_size: int | None) -> ViewSpec:
    return evaluation_views(image_size or found.image_size, found.mean, found.std)
