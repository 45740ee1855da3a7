"""Prototypes for a backbone that has none: spherical k-means over representations of part of a data set."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from viewmill.engine.evaluation.features import represent
from viewmill.engine.passes.reading import Reading, together
from viewmill.engine.passes.visits import Visits
from viewmill.methods.collectives import all_sum
from viewmill.methods.prototypes import PrototypeAccumulator
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.flow.left_out import LeftOut
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

SAMPLES_PER_CLUSTER = 256  # more make directions hardly better
ITERATIONS = 25
ENOUGH = 1e-4  # mean cosine: an iteration that gains less is the last


@dataclass(frozen=True)
class Clustering:
    """What k-means found; the same on all ranks."""

    prototypes: Tensor  # (K, F) float32, of length 1
    fits: list[float]  # mean cosine with the nearest prototype, by iteration
    num_samples: int
    num_empty: int  # clusters without a sample in the last iteration


def spherical_kmeans(
    backbone: nn.Module,
    dataset: Dataset,
    num_clusters: int,
    *,
    views: ViewSpec,
    reading: Reading,
    seed: int = 0,
    max_left_out: int = 100,
) -> Clustering:
    """K directions, each the mean direction of the representations nearest to it; every rank calls it.

    Up to 256 K samples are drawn by the seed and read once; each rank keeps the representations of its share.
    The first K samples that can be used are the first prototypes.

    Raises:
        ValueError: more clusters than samples that can be used, or fewer than two.
        RuntimeError, RankError: see `run_pass`.
    """
    order = SampleOrder(dataset.num_samples, seed)
    drawn = order.ids(0, 0, min(dataset.num_samples, SAMPLES_PER_CLUSTER * num_clusters))
    own = together(
        reading.world, lambda: _own_rows(backbone, dataset, drawn, views, reading, LeftOut(max_left_out))
    )
    first, found = _first_prototypes(own, drawn, num_clusters)
    if not 2 <= num_clusters <= found:
        raise ValueError(
            f"{num_clusters} clusters of {found} samples of {dataset.shown}: give 2 to {found} clusters"
        )
    return _iterated(own[1], first, found)


def _own_rows(
    backbone: nn.Module,
    dataset: Dataset,
    drawn: np.ndarray,
    views: ViewSpec,
    reading: Reading,
    left_out: LeftOut,
) -> tuple[np.ndarray, Tensor]:
    """Ids of this rank's usable samples, and their representations (n, F) float32."""
    ids, rows = [np.empty(0, np.int64)], [torch.empty(0, int(backbone.num_features))]  # type: ignore[arg-type]

    def visit(batch: Batch) -> None:
        ids.append(batch.ids)
        rows.append(represent(backbone, batch.views[0], reading.world.device))

    with Visits(dataset, views, reading, ids=drawn, left_out=left_out, what="images for clusters") as visits:
        visits.read(range(len(drawn)), visit)
    return np.concatenate(ids), torch.cat(rows)


def _first_prototypes(
    own: tuple[np.ndarray, Tensor], drawn: np.ndarray, num_clusters: int
) -> tuple[Tensor, int]:
    """Representations of the first samples of the draw that can be used, on all ranks; how many can."""
    ids, rows = own
    place_of = {sample: place for place, sample in enumerate(drawn.tolist())}
    mine = [place_of[sample] for sample in ids.tolist()]
    usable = torch.zeros(len(drawn), dtype=torch.int64)
    usable[mine] = 1
    usable = all_sum(usable)
    chosen = usable.nonzero().flatten()[:num_clusters].tolist()
    first = torch.zeros(len(chosen), rows.shape[1], dtype=torch.float64)
    row_of = {place: row for row, place in enumerate(mine)}
    for cluster, place in enumerate(chosen):
        if place in row_of:
            first[cluster] = rows[row_of[place]].double()
    return all_sum(first), int(usable.sum())


def _iterated(rows: Tensor, prototypes: Tensor, num_samples: int) -> Clustering:
    """Assigns and moves until little is gained; the ranks see the same sums, so they stop together."""
    fits: list[float] = []
    while True:
        accumulator = PrototypeAccumulator(prototypes)
        for part in rows.split(4096):  # a bound on the (n, K) cosines
            accumulator.update(part)
        accumulator.pool()
        fits.append(accumulator.fit())
        prototypes = accumulator.refresh()
        gain = fits[-1] - fits[-2] if len(fits) > 1 else math.inf
        if len(fits) == ITERATIONS or gain < ENOUGH:
            empty = int(accumulator.empty().sum())
            return Clustering(prototypes.float(), fits, num_samples, empty)
