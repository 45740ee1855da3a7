"""What pictures are made from: a backbone, a data set, and the features that an evaluation leaves."""

# N images, F features, S pixels

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.contenders import labels_of, trained_features
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns
from viewmill.engine.evaluation.feature_cache import TensorCache
from viewmill.engine.evaluation.features import evaluation_views, ready
from viewmill.engine.evaluation.linear_probe import LinearProbe, fit_linear_probe
from viewmill.engine.identity import weights_hash
from viewmill.engine.passes.reading import Reading, read_views
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


@dataclass(frozen=True)
class Seen:
    """Images as the backbone sees them, in the order that was asked for."""

    ids: np.ndarray  # (n,) int64
    inputs: Tensor  # (n, 3, S, S) float32, normalised, on the backbone's device
    pixels: np.ndarray  # (n, S, S, 3) uint8: the same for people


class Scene:
    """One backbone and the images that it is looked at with; features are computed when first wanted.

    Args:
        source: its backbone goes to the rank's device, in evaluation mode.
        dataset: the images of the pictures.
        bank: labelled images that a probe learns from, and neighbours are looked for among; None: none.
        image_size: side of the views, pixels; None: the source's.
        classes: what the classes are called for people; None: as in the data set.
        cache: where features are looked for and left: an evaluation's `cache` folder.

    Raises:
        ValueError: a size that the backbone does not take, banks of other classes, or several ranks.
    """

    def __init__(
        self,
        source: BackboneSource,
        dataset: Dataset,
        bank: Dataset | None,
        reading: Reading,
        *,
        image_size: int | None,
        cache: Path,
        classes: Sequence[str] | None = None,
    ) -> None:
        if reading.world.world_size > 1:
            raise ValueError(
                "pictures are drawn by one process; let several ranks compute the features first, by "
                "viewmill evaluate under torchrun, and draw from its cache without torchrun"
            )
        if bank is not None and bank.classes != dataset.classes:
            raise ValueError(
                f"{bank.shown} and {dataset.shown} have other classes; give a --train of the same"
            )
        self.source, self.dataset, self.bank, self.reading = source, dataset, bank, reading
        self.views: ViewSpec = evaluation_views(image_size or source.image_size, source.mean, source.std)
        check_image_sizes(source.backbone, self.views.sizes)
        self.size = self.views.sizes[0]
        self.weights = weights_hash(source.backbone)
        self.backbone = ready(source.backbone, reading.world.device).requires_grad_(False)
        self.classes = list(dataset.classes if classes is None else classes)
        self.cache = TensorCache(cache)

    @cached_property
    def features(self) -> Tensor:
        """(N, F) float32 of the data set, every image read once; from the cache where they are there."""
        return trained_features(self.source, self.dataset, self.views, self.reading, self.cache, "images")

    @cached_property
    def bank_features(self) -> Tensor | None:
        """(N, F) float32 of the bank; None without one."""
        if self.bank is None:
            return None
        return trained_features(self.source, self.bank, self.views, self.reading, self.cache, "train images")

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64 of the data set, -1: none."""
        return labels_of(self.dataset)

    @cached_property
    def probe(self) -> LinearProbe:
        """The linear probe that an evaluation fits to the bank.

        Raises:
            ValueError: there is no bank, or images of it have no label.
        """
        if self.bank is None or self.bank_features is None:
            raise ValueError("a score of a class needs a probe, and that needs labelled images: give --train")
        labels = labels_of(self.bank)
        unlabelled = int((labels < 0).sum())
        if unlabelled:
            raise ValueError(
                f"{self.bank.shown}: {unlabelled} of {len(labels)} images have no label for a probe to "
                "learn; convert from a folder with one folder a class, or leave out --score class"
            )
        device = self.reading.world.device
        return fit_linear_probe(self.bank_features, labels, len(self.bank.classes), device=device)[0]

    @cached_property
    def hypercolumns(self) -> Hypercolumns:
        """The stages of the backbone. Raises ValueError: it has none."""
        return Hypercolumns(self.backbone, (self.size, self.size))

    def see(self, ids: Sequence[int] | np.ndarray, dataset: Dataset | None = None) -> Seen:
        """The images with these ids of `dataset` (None: the scene's), read and cut as the features' are."""
        wanted = np.asarray(ids, dtype=np.int64)
        unique, place = np.unique(wanted, return_inverse=True)
        batches = read_views(dataset or self.dataset, self.views, self.reading, ids=unique)
        found = torch.cat([torch.as_tensor(batch.views[0]).float().cpu() for batch in batches])
        inputs = found[torch.from_numpy(place)]
        mean, std = (torch.tensor(channel)[:, None, None] for channel in (self.views.mean, self.views.std))
        pixels = ((inputs * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        return Seen(wanted, inputs.to(self.reading.world.device), pixels)
