"""The images nearest to some images, from features that are there already."""

# N images of the bank, q queries

from collections.abc import Sequence

import torch
from torch import Tensor
from viewmill.engine.evaluation.knn import Neighbours, nearest


def nearest_images(
    features: Tensor, queries: Sequence[int], k: int, bank: Tensor | None = None, device: str = "cpu"
) -> Neighbours:
    """The k most cosine-similar images of each query, nearest first.

    Without a bank the queries are looked for among `features`, and none finds itself: it is left out by its
    row, so that a copy of it under another row is found.

    Args:
        features: (n, F) of the data set that the queries are rows of.
        bank: (N, F) of another data set; None: `features`.

    Returns:
        Similarities and rows of the bank, (q, k).

    Raises:
        ValueError: fewer than k other images, or widths that differ.
    """
    rows = torch.as_tensor(list(queries), dtype=torch.int64)
    if bank is not None:
        return nearest(features[rows], bank, k, device=device)
    if not 1 <= k < len(features):
        raise ValueError(
            f"neighbours: {len(features)} images have at most {len(features) - 1} others, not {k}"
        )
    found = nearest(features[rows], features, k + 1, device=device)
    is_other = found.rows != rows[:, None]
    # Copies with lower rows may fill all k + 1 places: then the last one goes, and not the query.
    is_other[is_other.all(dim=1), -1] = False
    shape = (len(rows), k)
    return Neighbours(found.similarity[is_other].view(shape), found.rows[is_other].view(shape))
