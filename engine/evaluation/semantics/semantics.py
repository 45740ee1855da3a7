"""Whether distances between classes in a representation follow those of their meanings (HyDeS, Table IV)."""

# C classes with images, D features

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.evaluation.geometry.row_sums import check_labels, directions
from viewmill.engine.evaluation.semantics.class_names import name_distances
from viewmill.engine.evaluation.semantics.class_synsets import meanings_of
from viewmill.engine.evaluation.semantics.mantel import Association, mantel
from viewmill.engine.evaluation.semantics.wordnet import find_wordnet
from viewmill.engine.evaluation.semantics.wordnet_similarity import similarities

PROTOCOL = "semantics-v1/centroids-of-unit-vectors/1-cosine/average-linkage"
MIN_CLASSES = 4  # six pairs
MOST_TURNED = 1000  # classes
ROW_BLOCK = 16_384  # rows whose float64 copies are held at once


@dataclass(frozen=True)
class MeaningDistances:
    """How far apart the meanings of every two classes are: (C, C) float64 by name of the measure."""

    wup: np.ndarray  # 1 - Wu-Palmer similarity
    lch: np.ndarray  # - Leacock-Chodorow similarity
    minilm: np.ndarray | None  # 1 - cosine of the names' text embeddings


def meaning_distances(
    classes: Sequence[str], *, wordnet: Path | None, synsets: Path | None, with_text: bool
) -> MeaningDistances:
    """Distances between the meanings of classes.

    Args:
        wordnet: folder or zip of WordNet 3.0; None: where `find_wordnet` looks.
        synsets: see `meanings_of`.
        with_text: whether to compare names by the text model too.

    Raises:
        FileNotFoundError, ValueError: no WordNet, another version, or a class without a synset.
        RuntimeError: the text model is not installed.
    """
    check_count(len(classes))
    files = find_wordnet(wordnet)
    meanings = meanings_of(classes, files, synsets)
    found = similarities(files, meanings.synsets)
    return MeaningDistances(
        wup=1 - found.wup, lch=-found.lch, minilm=name_distances(meanings.texts) if with_text else None
    )


def check_count(num_classes: int) -> None:
    """Raises ValueError: so few classes that no correlation of their pairs means anything."""
    if num_classes < MIN_CLASSES:
        raise ValueError(f"semantics compares {MIN_CLASSES} classes or more, and {num_classes} have images")


def class_centroids(features: Tensor, labels: Tensor, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The classes that have images, and the mean direction of each: (c,) int64 and (c, D) float64.

    Raises:
        ValueError: labels that are no classes, features that are not finite, or a representation of zeros.
    """
    check_labels(labels, len(features), num_classes)
    if not torch.isfinite(features).all():
        raise ValueError("semantics: representations are not finite; the weights have diverged")
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    for rows, targets in zip(features.split(ROW_BLOCK), labels.split(ROW_BLOCK), strict=True):
        sums.index_add_(0, targets, directions(rows))
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts.nonzero().flatten()
    return present.numpy(), (sums[present] / counts[present, None]).numpy()


def centroid_distances(centroids: np.ndarray) -> np.ndarray:
    """1 - cosine of every two centroids: (c, c), 0 on the diagonal, symmetric to the last bit.

    Raises:
        ValueError: a centroid at the origin, which has no direction.
    """
    lengths = np.linalg.norm(centroids, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("semantics: the images of a class cancel out, so its centroid has no direction")
    unit = centroids / lengths
    distance = 1 - np.clip(unit @ unit.T, -1, 1)
    np.fill_diagonal(distance, 0)
    return np.asarray((distance + distance.T) / 2)


def cophenetic(distance: np.ndarray) -> np.ndarray:
    """At which distance agglomerative clustering by average linkage joins every two classes: (c, c).

    Source: Sokal and Rohlf (1962), The comparison of dendrograms by objective methods. Where distances are
    equal, as WordNet's often are, the order of the classes decides which are joined first.
    """
    from scipy.cluster.hierarchy import cophenet, linkage
    from scipy.spatial.distance import squareform

    return np.asarray(squareform(cophenet(linkage(squareform(distance, checks=False), "average"))))


def cluster_order(distance: np.ndarray) -> np.ndarray:
    """The classes in the order of their clusters by average linkage: (c,) int64.

    Each branch of the tree is turned so that neighbours are as near as they can be (Bar-Joseph et al. 2001,
    Fast optimal leaf ordering for hierarchical clustering), up to `MOST_TURNED` classes: its time grows with
    the cube of their number. Among more, a branch stands as the clustering left it.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    if len(distance) < 3:
        return np.arange(len(distance))
    pairs = squareform(distance, checks=False)
    tree = linkage(pairs, "average")
    if len(distance) <= MOST_TURNED:
        tree = optimal_leaf_ordering(tree, pairs)
    return np.asarray(leaves_list(tree), dtype=np.int64)


def semantics_of(
    features: Tensor, labels: Tensor, meanings: MeaningDistances, *, seed: int = 0
) -> dict[str, Association | None]:
    """Correlations of distances between class centroids with those of meanings; larger: more alike.

    wup, lch, minilm      Spearman's, with 1 - WuP, -LCH, and 1 - cosine of the names' embeddings
    cophenetic            Pearson's, of the two clusterings' cophenetic distances: centroids and 1 - WuP
    cophenetic_distances  Pearson's, of the centroids' cophenetic distances and 1 - WuP itself

    Classes without images are left out.

    Args:
        features: (N, D); labels: (N,) int64, whose classes are those of `meanings`.
        seed: of the permutations.

    Raises:
        ValueError: fewer than four classes with images, or see `class_centroids`.
    """
    present, centroids = class_centroids(features, labels, len(meanings.wup))
    check_count(len(present))
    there = np.ix_(present, present)
    distance = centroid_distances(centroids)
    joined = cophenetic(distance)
    wup = meanings.wup[there]
    found = {
        "wup": mantel(distance, wup, ranked=True, seed=seed),
        "lch": mantel(distance, meanings.lch[there], ranked=True, seed=seed),
        "cophenetic": mantel(joined, cophenetic(wup), ranked=False, seed=seed),
        "cophenetic_distances": mantel(joined, wup, ranked=False, seed=seed),
    }
    if meanings.minilm is not None:
        found["minilm"] = mantel(distance, meanings.minilm[there], ranked=True, seed=seed)
    return found
