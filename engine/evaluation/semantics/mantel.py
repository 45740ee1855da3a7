"""Correlation of two matrices of distances between the same classes, and whether chance explains it.

Distances share classes, so C (C - 1) / 2 of them are far from so many independent numbers, and the usual
p-value is much too small. Permuting the classes of one matrix keeps what its distances share.
"""

# C classes

from dataclasses import dataclass

import numpy as np
from viewmill.pipelines.philox import Stream, keyed_words

PERMUTATIONS = 999


@dataclass(frozen=True)
class Association:
    """A correlation over the pairs of classes, and how likely chance alone gives as much."""

    correlation: float
    p_permuted: float  # of permuted classes, one-sided
    p_pairs: float  # as if the pairs were independent, two-sided: what the papers' tables give


def mantel(
    first: np.ndarray, second: np.ndarray, *, ranked: bool, permutations: int = PERMUTATIONS, seed: int = 0
) -> Association | None:
    """Mantel's test of two symmetric (C, C) matrices: Spearman's correlation if `ranked`, else Pearson's.

    p_permuted = (1 + how many permutations correlate at least as much) / (1 + permutations).
    Source: Mantel (1967), The detection of disease clustering and a generalized regression approach.

    Returns:
        None where all entries of one matrix are the same, so there is no correlation.

    Raises:
        ValueError: other shapes, or fewer than three classes.
    """
    from scipy import stats

    count = len(first)
    if first.shape != (count, count) or second.shape != first.shape or count < 3:
        raise ValueError(f"need two (C, C) matrices, C >= 3, got {first.shape} and {second.shape}")
    pairs = np.triu_indices(count, k=1)
    ours, theirs = first[pairs], second[pairs]
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return None
    test = stats.spearmanr if ranked else stats.pearsonr
    p_pairs = float(test(ours, theirs).pvalue)
    if ranked:
        ours, theirs = stats.rankdata(ours), stats.rankdata(theirs)
    one, other = (_standardised(values, pairs, count) for values in (ours, theirs))
    correlation = float((one * other).sum() / 2)
    found = sum(
        float((one[np.ix_(order, order)] * other).sum() / 2) >= correlation - 1e-12
        for order in (permutation(count, seed, number) for number in range(permutations))
    )
    return Association(correlation, (1 + found) / (1 + permutations), p_pairs)


def permutation(count: int, seed: int, number: int) -> np.ndarray:
    """The permutation of 0 .. count - 1 of this number: the same for every rank, machine and number drawn."""
    words = keyed_words(seed, Stream.PERMUTATIONS, number, np.arange(count), 0)
    return np.argsort(words[0] << np.uint64(32) | words[1], kind="stable")


def _standardised(values: np.ndarray, pairs: tuple[np.ndarray, ...], count: int) -> np.ndarray:
    """Symmetric (C, C) with mean 0 and length 1 over the pairs; 0 on the diagonal."""
    centred = values - values.mean()
    matrix = np.zeros((count, count))
    matrix[pairs] = centred / np.linalg.norm(centred)
    return matrix + matrix.T
