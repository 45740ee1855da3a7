"""Representations on a plane: near ones stay near, by UMAP."""

import importlib.util
import warnings

import numpy as np
import torch
from torch import Tensor

NEIGHBOURS, MIN_DISTANCE = 15, 0.1
LEAST = 4  # images
NEEDS = "map: umap-learn is not installed; run: pip install 'viewmill[pictures]'"


def is_installed() -> bool:
    """Whether umap-learn is here."""
    return importlib.util.find_spec("umap") is not None


def plane_of(features: Tensor, *, seed: int = 0, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """A place on a plane for every image: (N, 2) float32, by UMAP of the cosine distances.

    Source: McInnes et al. 2018. Distances between far groups and the sizes of groups mean nothing. The same
    features and seed give the same places, on one thread.

    Args:
        features: (N, F).
        neighbours: of an image that are held together; fewer where there are fewer images.

    Raises:
        ImportError: umap-learn is not installed.
        ValueError: fewer than four images, or features that are not finite.
    """
    if len(features) < LEAST:
        raise ValueError(f"map: {len(features)} images have no map; {LEAST} are the least")
    if not torch.isfinite(features).all():
        raise ValueError("map: the features are not finite; the weights have diverged")
    try:
        import umap
    except ImportError as error:
        raise ImportError(NEEDS) from error
    with warnings.catch_warnings():
        # It says that a seed leaves it one thread, and that few images have no spectral start.
        warnings.simplefilter("ignore", UserWarning)
        found = umap.UMAP(
            n_neighbors=min(neighbours, len(features) - 1),
            min_dist=MIN_DISTANCE,
            metric="cosine",
            init="spectral" if len(features) > 10 else "random",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(features.numpy())
    return np.asarray(found, dtype=np.float32)
