"""The map of representations: groups stay groups."""

import sys

import numpy as np
import pytest
import torch
from viewmill.engine.evaluation.pictures.plane import NEEDS, is_installed, plane_of


@pytest.mark.slow  # umap compiles its loops
@pytest.mark.skipif(not is_installed(), reason="umap-learn is not installed")
def test_two_planted_groups_stay_apart() -> None:
    draws = torch.Generator().manual_seed(0)
    group = torch.arange(40) % 2
    features = torch.randn(40, 6, generator=draws) * 0.1 + torch.eye(6)[group] * 5
    places = plane_of(features, neighbours=8)
    assert places.shape == (40, 2)
    centres = np.stack([places[group == one].mean(axis=0) for one in range(2)])
    nearer = np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearer == group.numpy()).all()


def test_what_has_no_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="3 images have no map"):
        plane_of(torch.eye(3))
    with pytest.raises(ValueError, match="not finite"):
        plane_of(torch.full((5, 2), torch.nan))
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError) as caught:
        plane_of(torch.eye(5))
    assert str(caught.value) == NEEDS
