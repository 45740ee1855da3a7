"""Pictures of a whole data set: how alike its classes are, and where its images lie on a plane."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from viewmill.tools.pictures.captions import Captions
from viewmill.tools.pictures.plate import Plate
from viewmill.tools.pictures.plots import Canvas, draw_plane, draw_similarity

if TYPE_CHECKING:
    from viewmill.engine.evaluation.pictures.scene import Scene

MEANING, SIMILARITY = "wordnet", "similarity"
IMAGENET_ID = re.compile(r"n\d{8}")
MOST_POINTS = 20_000  # of a plane: more lie on top of each other, and take UMAP minutes


def centroids(
    scene: "Scene",
    captions: Captions,
    order: str = "auto",
    wordnet: Path | None = None,
    synsets: Path | None = None,
) -> list[Plate]:
    """The heat map of class centroids.

    Args:
        order: "wordnet", "similarity", or "auto": the first where WordNet is there and has the classes.

    Raises:
        ValueError, FileNotFoundError: the order is "wordnet", and there is none of these classes.
    """
    from viewmill.engine.evaluation.pictures.class_similarity import class_similarity

    meaning, why = meanings_of(scene, order, wordnet, synsets)
    found = class_similarity(scene.features, scene.labels, len(scene.classes), meaning)
    names = [scene.classes[number] for number in found.classes.tolist()]
    ordered = (
        "in the order of WordNet's clusters" if meaning is not None else "in the order of their own clusters"
    )
    off = found.cosine[~np.eye(len(names), dtype=bool)]
    what = (
        f"Cosine of the centroids (mean directions) of {len(names):,} classes of "
        f"{captions.data(scene.dataset)}, {len(scene.features):,} images, {ordered} by average "
        f"linkage{why}; mean of all pairs {off.mean():.3f}. Bright: alike."
    )
    caption, title = captions.of(what), "Similarity of classes"
    return [
        Plate(
            "centroids",
            title,
            caption,
            lambda theme: Canvas(theme, title, caption, 6.6).draw(
                lambda figure: draw_similarity(figure, found.cosine, names, ordered)
            ),
            photographs=False,
        )
    ]


def meanings_of(
    scene: "Scene", order: str, wordnet: Path | None, synsets: Path | None
) -> tuple[np.ndarray | None, str]:
    """Distances of the classes' meanings, None: not to be used; and what the caption says of it."""
    from viewmill.engine.evaluation.semantics.class_synsets import meanings_of as synsets_of
    from viewmill.engine.evaluation.semantics.wordnet import find_wordnet
    from viewmill.engine.evaluation.semantics.wordnet_similarity import similarities

    if order == SIMILARITY or not scene.dataset.classes:
        return None, ""
    try:
        files = find_wordnet(wordnet)
        found = synsets_of(list(scene.dataset.classes), files, synsets)
    except (FileNotFoundError, ValueError) as error:
        if order == MEANING or wordnet is not None or synsets is not None:
            raise
        reason = (
            "no WordNet is here" if isinstance(error, FileNotFoundError) else "WordNet lacks these classes"
        )
        return None, f" ({reason})"
    return 1 - similarities(files, found.synsets).wup, " of 1 - Wu-Palmer similarity"


def words_of(classes: Sequence[str], wordnet: Path | None) -> list[str]:
    """What classes are called for people: of ImageNet's ids the first word of their synset where WordNet is.

    Any other class is called what its folder is, or the last of several folders.
    """
    from viewmill.engine.evaluation.semantics.class_synsets import meanings_of as synsets_of
    from viewmill.engine.evaluation.semantics.wordnet import find_wordnet

    names = [name.rpartition("/")[2] for name in classes]
    if not all(IMAGENET_ID.fullmatch(name) for name in names):
        return names
    try:
        return synsets_of(names, find_wordnet(wordnet)).texts
    except (FileNotFoundError, ValueError):
        if wordnet is not None:
            raise
        return names


def plane(scene: "Scene", captions: Captions, seed: int = 0) -> list[Plate]:
    """All images as points, or so many that are evenly spread over the data set."""
    from viewmill.engine.evaluation.pictures.plane import NEIGHBOURS, plane_of
    from viewmill.tools.contact_sheet import spread_ids

    ids = spread_ids(len(scene.features), MOST_POINTS)
    places = plane_of(scene.features[ids], seed=seed)
    labels = scene.labels.numpy()[ids]
    what = (
        f"{len(ids):,} of {len(scene.features):,} images of {captions.data(scene.dataset)} on a plane: UMAP "
        f"of the cosine distances of their representations, {NEIGHBOURS} neighbours, seed {seed}, coloured "
        "by class. What is near is alike; distances between far groups, and their sizes, mean nothing."
    )
    caption, title = captions.of(what), "A map of the representations"
    return [
        Plate(
            "map",
            title,
            caption,
            lambda theme: Canvas(theme, title, caption, 5.4).draw(
                lambda figure: draw_plane(figure, places, labels, scene.classes)
            ),
            photographs=False,
        )
    ]
