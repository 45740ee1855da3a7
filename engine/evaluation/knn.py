"""k nearest neighbours by cosine, exact and in blocks, and the votes of their classes.

Ties are broken by rule: of equally similar neighbours the one with the lower row comes first, of classes with
equal votes the one with the lower number. A class without a vote is never predicted.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

QUERY_BLOCK, BANK_BLOCK = 512, 8192  # rows; a block of similarities takes 50 MB
VOTE_BLOCK = 4096  # rows whose votes for every class are held at once
TOP = 5  # best classes that are told
NO_CLASS = -1
_LOW_BITS = 0xFFFF_FFFF


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of the bank, nearest first; on the CPU."""

    similarity: Tensor  # (n, k) float32, cosine
    rows: Tensor  # (n, k) int64

    def first(self, k: int) -> "Neighbours":
        """The k nearest of them."""
        return Neighbours(self.similarity[:, :k], self.rows[:, :k])


def nearest(
    queries: Tensor,
    bank: Tensor,
    k: int,
    *,
    device: torch.device | str = "cpu",
    query_block: int = QUERY_BLOCK,
    bank_block: int = BANK_BLOCK,
) -> Neighbours:
    """The k rows of the bank most similar to each query; every pair is compared.

    Memory is O(query_block x (bank_block + k)) beside inputs and result. The cosine of a zero vector with
    anything is 0.

    Args:
        queries: (n, F); bank: (N, F); float32 or float64, on the CPU. Similarities are computed in float32.
        device: where blocks are compared.

    Raises:
        ValueError: k is not within 1 .. N, or widths differ.
    """
    if not 1 <= k <= len(bank):
        raise ValueError(f"k must lie in 1 .. {len(bank)}, the number of rows of the bank; got {k}")
    if queries.shape[1] != bank.shape[1]:
        raise ValueError(f"queries have {queries.shape[1]} features, the bank has {bank.shape[1]}")
    # Filled block by block: results of each that stand in the heap until the end would keep its pieces apart.
    found = Neighbours(
        torch.empty(len(queries), k, dtype=torch.float32), torch.empty(len(queries), k, dtype=torch.int64)
    )
    for first in range(0, len(queries), query_block):
        block = queries[first : first + query_block]
        best = torch.empty(len(block), 0, dtype=torch.int64, device=device)
        unit = _unit(block, device)
        for start in range(0, len(bank), bank_block):
            similarity = unit @ _unit(bank[start : start + bank_block], device).T
            both = torch.cat([best, _ranks(similarity, start)], dim=1)
            best = both.topk(min(k, both.shape[1]), dim=1).values
        own = slice(first, first + len(block))
        found.similarity[own], found.rows[own] = _unranked(best.cpu())
    return found


def vote(neighbours: Neighbours, labels: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """The classes with most votes, best first.

    A neighbour of cosine s has exp(s / temperature) votes, or one vote each without a temperature.
    Source: Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination, section
    3.4, with the temperature 0.07.

    Args:
        labels: (N,) int64 classes of the bank's rows, 0 .. num_classes - 1.

    Returns:
        (n, min(TOP, num_classes)) int64; NO_CLASS where no further class has a vote.

    Raises:
        ValueError: the temperature is not positive.
    """
    if temperature is not None and temperature <= 0:
        raise ValueError(f"the temperature must be > 0, got {temperature}")
    ranked = [
        _vote_block(similarity, labels[rows], num_classes, temperature)
        for similarity, rows in zip(
            neighbours.similarity.split(VOTE_BLOCK), neighbours.rows.split(VOTE_BLOCK), strict=True
        )
    ]
    return torch.cat(ranked)


def _vote_block(similarity: Tensor, classes: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """`vote` for some queries: similarity and classes are (n, k)."""
    weight = torch.ones_like(similarity, dtype=torch.float64)
    if temperature is not None:
        # Less the row's largest: the ranking is the same, and no temperature overflows.
        weight = ((similarity - similarity[:, :1]).double() / temperature).exp()
    votes = torch.zeros(len(classes), num_classes, dtype=torch.float64).scatter_add_(1, classes, weight)
    has_vote = torch.zeros(len(classes), num_classes, dtype=torch.bool).scatter_(1, classes, True)
    votes[~has_vote] = -1  # below a vote that underflowed to 0
    score, order = votes.sort(dim=1, descending=True, stable=True)
    order[score < 0] = NO_CLASS
    return order[:, :TOP]


def _unit(rows: Tensor, device: torch.device | str) -> Tensor:
    return F.normalize(rows.to(device, torch.float32), dim=1)


def _ranks(similarity: Tensor, start: int) -> Tensor:
    """Whole numbers that order (similarity, lower row first), so that the k largest are never ambiguous.

    The high half is the float's bits, made to grow with it; the low half is the row, counted down.
    """
    bits = (similarity + 0.0).view(torch.int32)  # + 0.0: -0.0 and 0.0 are equal
    high = torch.where(bits >= 0, bits, bits ^ 0x7FFF_FFFF).to(torch.int64) << 32
    rows = torch.arange(start, start + similarity.shape[1], device=similarity.device)
    return high | (_LOW_BITS - rows)


def _unranked(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity and row of what `_ranks` made."""
    high = (ranks >> 32).to(torch.int32)
    bits = torch.where(high >= 0, high, high ^ 0x7FFF_FFFF)
    return bits.view(torch.float32), _LOW_BITS - (ranks & _LOW_BITS)
