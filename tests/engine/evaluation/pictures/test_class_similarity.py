"""The heat map of classes: cosines of centroids, kindred classes side by side."""

import numpy as np
import pytest
import torch
from viewmill.engine.evaluation.pictures.class_similarity import class_similarity

# A tree of six classes: {0, 3}, {1, 5}, {2, 4}; the last two pairs are nearer each other than the first.
PAIRS = ({0, 3}, {1, 5}, {2, 4})


def tree() -> np.ndarray:
    """Distances of the classes' meanings: 0.1 in a pair, 0.5 between the last two pairs, else 0.9."""
    pair_of = {one: number for number, pair in enumerate(PAIRS) for one in pair}
    distance = np.zeros((6, 6))
    for a in range(6):
        for b in range(6):
            if a != b:
                same, far = pair_of[a] == pair_of[b], 0 in (pair_of[a], pair_of[b])
                distance[a, b] = 0.1 if same else 0.9 if far else 0.5
    return distance


def test_classes_stand_in_the_order_of_a_known_tree() -> None:
    features = torch.randn(60, 16, generator=torch.Generator().manual_seed(1))
    found = class_similarity(features, torch.arange(60) % 6, 6, tree())
    order = found.classes.tolist()
    places = [{order[0], order[1]}, {order[2], order[3]}, {order[4], order[5]}]
    assert sorted(map(sorted, places)) == sorted(map(sorted, PAIRS))
    assert PAIRS[0] in (places[0], places[2])  # the far pair stands at an end


def test_without_meanings_the_centroids_decide() -> None:
    angles = torch.tensor([0.0, 2.0, 0.1, 2.1])  # classes 0 and 2 are near, and 1 and 3
    features = torch.stack([angles.cos(), angles.sin()], dim=1).repeat(5, 1)
    found = class_similarity(features, torch.arange(20) % 4, 4)
    order = found.classes.tolist()
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
    ordered = angles.numpy()[order]
    expected = np.cos(ordered[:, None] - ordered)
    np.testing.assert_allclose(found.cosine, expected, atol=1e-6)


def test_classes_without_images_and_images_without_a_class_are_left_out() -> None:
    features = torch.eye(4)
    found = class_similarity(features, torch.tensor([4, -1, 2, 2]), 6)
    assert sorted(found.classes.tolist()) == [2, 4]
    np.testing.assert_allclose(found.cosine, np.eye(2), atol=1e-12)


def test_one_class_and_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="two classes with images are needed"):
        class_similarity(torch.eye(3), torch.tensor([1, 1, -1]), 3)
    with pytest.raises(ValueError, match="not finite"):
        class_similarity(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]), torch.tensor([0, 1]), 2)
