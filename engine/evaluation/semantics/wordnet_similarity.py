"""How similar nouns are by the ways between them in WordNet, with the values that NLTK gives."""

# C classes, A synsets that are one of the classes or lie above one

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from viewmill.engine.evaluation.semantics.wordnet import WordNet


@dataclass(frozen=True)
class Similarities:
    """Of every pair of classes: (C, C) float64, symmetric; entry (i, j), i < j, is the one from i to j."""

    wup: np.ndarray  # Wu-Palmer, above 0, 1 of a class and itself
    lch: np.ndarray  # Leacock-Chodorow, nats
    distance: np.ndarray  # edges of the shortest way, int64


def similarities(wordnet: WordNet, synsets: Sequence[int]) -> Similarities:
    """Wu-Palmer's and Leacock and Chodorow's similarity of every two synsets, a row at a time.

    distance(a, b): edges of the shortest way over a common hypernym.
    lch = - log( (distance + 1) / (2 x the depth of the nouns) ), the depth being 19 edges, as in NLTK.
    wup = 2 d / (d + l_a + d + l_b): d nodes from the root to the lowest common hypernym, l edges from it.

    The lowest common hypernym is the one whose shortest way to the root is longest; of several it is `a`
    itself or the first by name. Its d follows the longest way to the root. (NLTK's rules; where several are
    lowest, the similarity from b to a may differ.)

    Sources: Wu and Palmer (1994), Verb semantics and lexical selection; Leacock and Chodorow (1998),
    Combining local context and WordNet similarity for word sense identification.
    """
    above = [wordnet.ancestors(synset) for synset in synsets]
    # By name, so that the first of equally low ones is the first by name.
    by_name = sorted({one for up in above for one in up}, key=wordnet.name)
    columns = {synset: at for at, synset in enumerate(by_name)}
    edges, ways = _upward(wordnet, above, columns)
    min_depths, max_depths = (
        np.array([depth(synset) for synset in columns]) for depth in (wordnet.min_depth, wordnet.max_depth)
    )
    count = len(synsets)
    wup, distance = np.ones((count, count)), np.zeros((count, count), dtype=np.int64)
    for i, synset in enumerate(synsets):
        near = np.sort([columns[one] for one in above[i]])  # all that can be common
        total = edges[i, near] + edges[i:, near]  # (C - i, few); inf where not common
        depths = np.where(np.isfinite(total), min_depths[near], -1)
        lowest = near[depths.argmax(axis=1)]
        itself = columns[synset]
        is_lowest = np.isfinite(edges[i:, itself]) & (min_depths[itself] == depths.max(axis=1))
        lowest = np.where(is_lowest, itself, lowest)
        nodes = max_depths[lowest] + 1
        row = 2 * nodes / (ways[i, lowest] + ways[range(i, count), lowest] + 2 * nodes)
        wup[i, i:], wup[i:, i] = row, row
        distance[i, i:], distance[i:, i] = total.min(axis=1), total.min(axis=1)
    return Similarities(wup, -np.log((distance + 1) / (2 * wordnet.depth)), distance)


def _upward(
    wordnet: WordNet, above: list[dict[int, int]], columns: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """From each class to each synset above it: edges straight up, and of the shortest way at all; (C, A).

    The two differ where a higher synset is reached by a shorter way, past the lower one. Infinite elsewhere.
    """
    edges = np.full((len(above), len(columns)), np.inf)
    ways = edges.copy()
    higher = {synset: wordnet.ancestors(synset) for synset in columns}
    for row, up in enumerate(above):
        for synset, steps in up.items():
            edges[row, columns[synset]] = steps
            ways[row, columns[synset]] = min(up[one] + back for one, back in higher[synset].items())
    return edges, ways
