"""Where a teacher's clusters come from: prototypes in a file, or k-means over a backbone's representations."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.features import evaluation_views, ready
from viewmill.engine.identity import content_hash, weights_hash
from viewmill.engine.passes.cluster_prior import ClusterModel
from viewmill.engine.passes.kmeans import spherical_kmeans
from viewmill.engine.passes.prior_file import read_prior
from viewmill.engine.passes.reading import Reading, together
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

Tell = Callable[[str], None]


def clusters_of_backbone(
    found: BackboneSource,
    dataset: Dataset,
    reading: Reading,
    *,
    num_clusters: int | None = None,
    prototypes: Path | None = None,
    image_size: int | None = None,
    seed: int = 0,
    folder: Path,
    tell: Tell,
) -> ClusterModel:
    """Logits w_k . f(x)/|f(x)| of a backbone's representations f; every rank calls it.

    Args:
        num_clusters: makes as many prototypes by `spherical_kmeans` from images of the data set.
        prototypes: a prior's file that holds them; one of the two.
        image_size: side of the views, pixels; None: the backbone's.
        seed: of k-means.
        folder: keeps the prototypes of k-means, so that a pass that was killed goes on with the same.
        tell: is told in a line how k-means went.

    Raises:
        ValueError: both or neither of the two, or prototypes of another width.
        FileNotFoundError: there is no such file.
    """
    views = evaluation_views(image_size or found.image_size, found.mean, found.std)
    check_image_sizes(found.backbone, views.sizes)
    backbone = ready(found.backbone, reading.world.device)
    about: dict[str, Any] = {**found.about, "weights": weights_hash(backbone)}
    if (num_clusters is None) == (prototypes is None):
        raise ValueError(
            f"{found.name} has no clusters of its own: give --clusters K to make them by k-means, or "
            "--prototypes FILE, one of the two"
        )
    if prototypes is not None:
        directions = together(reading.world, lambda: prototypes_in(prototypes, int(about_width(found))))
    else:
        key: Key = {"what": "prototypes", "model": about, "data": content_hash(dataset)}
        key |= {"clusters": num_clusters, "seed": seed, "views": repr(views)}
        make = partial(_kmeans, found, dataset, int(num_clusters or 0), views, reading, seed, tell)
        directions = _kept(key, make, reading, TensorCache(folder))
    there = F.normalize(directions, dim=1).to(reading.world.device)
    about["prototypes"] = [len(directions), directions.double().sum().item()]
    return ClusterModel(
        name=found.name,
        logits=lambda images: F.linear(F.normalize(backbone(images).float(), dim=1), there),
        num_clusters=len(directions),
        views=views,
        about=about,
        prototypes=directions,
    )
