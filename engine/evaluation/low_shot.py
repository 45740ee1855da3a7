"""A linear probe fitted to few labels: the same small share of every class, drawn by key."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.evaluation.linear_probe import HELD_OUT_EVERY
from viewmill.pipelines.philox import Stream, keyed_words

SEED = 0
PROTOCOL = "lowshot-v1/balanced/linear-v1"


def rows_of_share(labels: Tensor, percent: int, seed: int = SEED) -> Tensor:
    """Rows of `percent` of the images of each class, rounded, at least one: (m,) int64 in order.

    Which, depends on seed and row alone, so a smaller share is part of a larger one.

    Args:
        labels: (N,) int64.

    Raises:
        ValueError: percent is not within 1 .. 100.
    """
    if not 1 <= percent <= 100:
        raise ValueError(f"a share of the labels is 1 to 100 percent, got {percent}")
    words = keyed_words(seed, Stream.LOW_SHOT, 0, np.arange(len(labels)), 0)
    order = torch.from_numpy(np.argsort(words[0] << np.uint64(32) | words[1], kind="stable"))
    shuffled = labels[order]
    chosen = []
    for label in labels.unique():
        members = order[shuffled == label]
        chosen.append(members[: max(1, round(len(members) * percent / 100))])
    return torch.cat(chosen).sort().values


def check_shares(labels: Tensor, percents: Sequence[int], where: str) -> None:
    """Refuses shares of which nothing can be held out to choose the strength of the probe.

    Raises:
        ValueError: names the share, and what it has of the largest class.
    """
    for percent in percents:
        most = int(labels[rows_of_share(labels, percent)].bincount().max())
        if most < HELD_OUT_EVERY:
            raise ValueError(
                f"lowshot@{percent}: {percent} % of {where} are {most} images of a class at most, and one of "
                f"{HELD_OUT_EVERY} is held out; {_remedy(int(labels.bincount().max()))}"
            )


def _remedy(largest: int) -> str:
    """What to ask for instead, where the largest class has so many images."""
    enough = [percent for percent in range(1, 101) if round(largest * percent / 100) >= HELD_OUT_EVERY]
    return f"take lowshot@{enough[0]} or more" if enough else "leave lowshot out, no share is large enough"
