"""The places of a map are those of its seed."""

import numpy as np
import pytest
import torch
from viewmill.engine.evaluation.pictures.plane import is_installed, plane_of

pytestmark = [
    pytest.mark.soak,  # umap compiles its loops at every map
    pytest.mark.skipif(not is_installed(), reason="umap-learn is not installed"),
]


def test_the_same_seed_gives_the_same_places_and_another_others() -> None:
    features = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    places = plane_of(features, seed=3)
    np.testing.assert_array_equal(places, plane_of(features, seed=3))
    assert np.abs(places - plane_of(features, seed=4)).max() > 0.1
