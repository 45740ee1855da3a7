"""Nearest images: planted copies are found, and nobody finds itself."""

import pytest
import torch
from viewmill.engine.evaluation.pictures.neighbours import nearest_images


def planted() -> torch.Tensor:
    """Twelve directions at random; rows 7 and 9 are copies of row 2, and row 4 is nearly row 0."""
    features = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    features[7] = features[9] = 3 * features[2]
    features[4] = features[0] + 0.01 * features[5]
    return features


def test_copies_are_the_nearest_and_the_query_is_not_among_them() -> None:
    found = nearest_images(planted(), [2, 0, 9], 2)
    assert set(found.rows[0].tolist()) == {7, 9}
    assert found.rows[1, 0] == 4
    assert set(found.rows[2].tolist()) == {2, 7}
    torch.testing.assert_close(found.similarity[0], torch.ones(2))


def test_a_query_with_more_copies_than_places_finds_copies_alone() -> None:
    features = torch.ones(6, 3)
    for query in range(6):
        rows = nearest_images(features, [query], 2).rows[0].tolist()
        assert query not in rows
        assert len(set(rows)) == 2


def test_among_other_images_a_query_finds_its_copy() -> None:
    features = planted()
    found = nearest_images(features, [3, 5], 1, bank=features.flip(0))
    assert found.rows.flatten().tolist() == [11 - 3, 11 - 5]


def test_more_neighbours_than_there_are_others_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images have at most 2 others, not 3"):
        nearest_images(torch.eye(3), [0], 3)
