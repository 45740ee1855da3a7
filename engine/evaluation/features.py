"""One pass over a data set: every sample's representation, exactly once on any number of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from viewmill.engine.passes.reading import Reading, together
from viewmill.engine.passes.visits import Visits
from viewmill.engine.world import World
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.passes import ids_of_rank
from viewmill.pipelines.plans.spec import IMAGENET_MEAN, IMAGENET_STD
from viewmill.pipelines.views import ViewSpec, preset
from viewmill.shards.manifest import Dataset


@dataclass(frozen=True)
class Features:
    """What a backbone makes of a data set; row i is sample i."""

    features: Tensor  # (N, F) float32, on the CPU
    labels: Tensor  # (N,) int64, -1: none
    ids: np.ndarray  # (N,) int64: 0 .. N-1


def evaluation_views(
    image_size: int,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> ViewSpec:
    """Short side to 8/7 of `image_size` pixels, the centre cut out, normalised; nothing is drawn."""
    return replace(preset(f"eval@{image_size}"), mean=mean, std=std)


def extract(
    backbone: nn.Module,
    dataset: Dataset,
    *,
    image_size: int,
    world: World,
    batch_size: int = 64,
    executor: str = "auto",
    num_threads: int = 2,
) -> Features:
    """Representations of the whole data set under the eval preset; every rank calls it and gets all rows.

    Raises:
        RankError: another rank could not read its share; that rank raises its own error.
        RuntimeError: a representation is not finite; names the sample.
    """
    reading = Reading(world, executor, num_threads, batch_size)
    return extract_all([backbone], dataset, evaluation_views(image_size), reading)[0]


def extract_all(
    backbones: Sequence[nn.Module], dataset: Dataset, views: ViewSpec, reading: Reading, what: str = "images"
) -> list[Features]:
    """`extract` for several backbones at once: each image is decoded once, and every backbone sees it.

    Args:
        views: one view a sample.
        what: names the pass in the progress.

    Raises:
        RankError, RuntimeError: as `extract`.
    """
    shares = together(reading.world, lambda: _own_share(backbones, dataset, views, reading, what))
    everyone = np.arange(dataset.num_samples)
    labels = torch.from_numpy(dataset.labels(everyone))
    found = []
    for share in shares:
        features = gather_rows(share, dataset.num_samples, reading.world)
        _refuse_not_finite(features, dataset)
        found.append(Features(features, labels, everyone))
    return found


def gather_rows(rows: Tensor, num_rows: int, world: World) -> Tensor:
    """All rows in id order, on every rank, from each rank's contiguous share (see `ids_of_rank`).

    Args:
        rows: (share of this rank, ...) on the CPU; shares may differ by a row, and may be empty.
    """
    if world.world_size == 1:
        return rows
    counts = [len(ids_of_rank(num_rows, rank, world.world_size)) for rank in range(world.world_size)]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


@torch.inference_mode()
def represent(backbone: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """(n, 3, S, S) -> (n, F) float32 on the CPU; the backbone as it stands, in training or evaluation."""
    # Convolutions on the CPU are two to three times as fast in this layout.
    moved = images.to(device, torch.float32, memory_format=torch.channels_last)
    return cast(Tensor, backbone(moved)).float().cpu()


def ready(backbone: nn.Module, device: torch.device) -> nn.Module:
    """The backbone in float32, in evaluation mode and on the device, in the layout that `represent` feeds."""
    settings: dict[str, Any] = {"memory_format": torch.channels_last}
    return backbone.to(device, torch.float32, **settings).eval()


def _own_share(
    backbones: Sequence[nn.Module], dataset: Dataset, views: ViewSpec, reading: Reading, what: str
) -> list[Tensor]:
    """(share, F) of every backbone, in id order."""
    device = reading.world.device
    share = ids_of_rank(dataset.num_samples, reading.world.rank, reading.world.world_size)
    models = [ready(backbone, device) for backbone in backbones]
    rows = [torch.empty(len(share), cast(int, model.num_features)) for model in models]

    def visit(batch: Batch) -> None:
        places = torch.from_numpy(batch.ids - share.start)
        for model, target in zip(models, rows, strict=True):
            target[places] = represent(model, batch.views[0], device)

    with Visits(dataset, views, reading, what=what) as visits:
        visits.read(range(dataset.num_samples), visit)
    return rows


def _refuse_not_finite(features: Tensor, dataset: Dataset) -> None:
    bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
    if len(bad):
        key = dataset.keys([int(bad[0])])[0]
        raise RuntimeError(
            f"{dataset.shown}: the representations of {len(bad)} samples are not finite, the first is "
            f"'{key}'; the weights have diverged, evaluate an earlier checkpoint"
        )
