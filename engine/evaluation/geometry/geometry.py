"""All figures of the geometry of one backbone's representations, the same on every rank."""

import math

import torch
from torch import Tensor
from viewmill.engine.evaluation.geometry.pair_sums import Angles, PairSums, add_own_blocks
from viewmill.engine.evaluation.geometry.row_sums import RowSums, check_labels, directions
from viewmill.engine.passes.reading import together
from viewmill.engine.world import World
from viewmill.pipelines.passes import ids_of_rank

ROW_BLOCK = 4096  # rows whose float64 copies are held at once
PROTOCOL = "geometry-v1/unit-vectors/all-pairs/float64"

Measures = dict[str, float | None]


def geometry_of(features: Tensor, labels: Tensor, num_classes: int, world: World) -> Measures:
    """The figures by name; angles in degrees. Every rank calls it with all rows, and does its share.

    Time is O(N^2 D / ranks), memory O(N D + D^2 + block^2). A figure that these images do not have (no class
    has two of them, say) is None.

    Args:
        features: (N, D) on the CPU, N >= 2; labels: (N,) int64 in 0 .. num_classes - 1.

    Raises:
        ValueError: fewer than two images, labels that are no classes, numbers that are not finite, or a
            representation of zeros. RankError: another rank failed.
    """
    rows, pairs = together(world, lambda: own_sums(features, labels, num_classes, world))
    rows.pool()
    pairs.pool()
    within, everywhere, between = pairs.positive_angles(), pairs.all_angles(), pairs.negative_angles()
    return {
        "anisotropy": rows.anisotropy(),
        "feature_correlation": rows.feature_correlation(),
        "center_norm": rows.center_norm(),
        "centroid_rank": rows.centroid_rank(),
        "embedding_rank": rows.embedding_rank(),
        "rankme": rows.rankme(),
        "sensitivity": pairs.sensitivity(),
        **told("angle", everywhere),
        **told("positive_angle", within),
        **told("negative_angle", between),
        "hoyer_sparsity": rows.hoyer_sparsity(),
        "zero_fraction": rows.zero_fraction(),
        "alignment": rows.alignment(),
        "uniformity": pairs.uniformity(),
    }


def own_sums(features: Tensor, labels: Tensor, num_classes: int, world: World) -> tuple[RowSums, PairSums]:
    """This rank's part of both sums."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(
            f"geometry needs the representations of two images at least, got {tuple(features.shape)}"
        )
    check_labels(labels, len(features), num_classes)
    if not torch.isfinite(features).all():
        wrong = int((~torch.isfinite(features)).any(dim=1).sum())
        raise ValueError(
            f"{wrong} of {len(features)} representations are not finite; the weights have diverged"
        )
    share = ids_of_rank(len(features), world.rank, world.world_size)
    rows, pairs = RowSums(features.shape[1], num_classes), PairSums()
    for start in range(share.start, share.stop, ROW_BLOCK):
        some = slice(start, min(start + ROW_BLOCK, share.stop))
        rows.update(features[some].to(world.device), labels[some].to(world.device))
    add_own_blocks(pairs, directions(features), labels, world.rank, world.world_size, world.device)
    return rows, pairs


def told(name: str, angles: Angles) -> Measures:
    """Mean and standard deviation in degrees; None where there are no pairs."""
    return {
        f"{name}_{what}_deg": math.degrees(value) if angles.pairs else None
        for what, value in (("mean", angles.mean), ("std", angles.std))
    }
