"""Principal components as colours: planted parts have a colour each, the foreground is what was planted."""

import numpy as np
import pytest
import torch
from torch import Tensor
from viewmill.engine.evaluation.pictures.components import foreground_of, principal_colours, projected


def planted(images: int = 2, side: int = 12, channels: int = 16) -> tuple[Tensor, np.ndarray]:
    """Columns (n, C, H, W) of three kinds of places, and the kinds (n, H, W): sky, sea and a boat."""
    draws = np.random.default_rng(0)
    kinds = np.zeros((images, side, side), dtype=int)
    kinds[:, side // 2 :] = 1
    for image in range(images):
        kinds[image, 4:8, 3 + image : 8 + image] = 2
    directions = draws.normal(size=(3, channels))
    columns = directions[kinds] + 0.01 * draws.normal(size=(*kinds.shape, channels))
    return torch.from_numpy(columns).permute(0, 3, 1, 2).float(), kinds


def test_three_planted_kinds_have_three_colours_on_all_images() -> None:
    columns, kinds = planted()
    found = principal_colours(columns)
    colours = np.stack([found.rgb[kinds == kind].mean(axis=0)[:2] for kind in range(3)])
    for kind in range(3):
        # Two components hold three kinds; the third is noise.
        assert found.rgb[kinds == kind][:, :2].std(axis=0).max() < 0.02
    gaps = [np.abs(colours[a] - colours[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert min(gaps) > 0.4
    assert sum(found.explained[:2]) > 0.99
    assert (found.rgb.min(), found.rgb.max()) == (0, 1)


def test_the_projection_is_that_of_a_singular_value_decomposition() -> None:
    rows = torch.randn(200, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = (rows - rows.mean(dim=0)) * torch.arange(1, 8)
    values, explained = projected(rows, 3)
    left, singular, _ = np.linalg.svd(rows.numpy(), full_matrices=False)
    np.testing.assert_allclose(np.abs(values), np.abs(left[:, :3] * singular[:3]), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(explained, (singular**2 / (singular**2).sum())[:3])


def test_stages_have_the_same_weight_however_many_channels_they_have() -> None:
    """Two stages with patterns that have nothing in common: one of 3 channels, one of 60."""
    few, many = torch.meshgrid(torch.tensor([-1.0, 1.0]), torch.tensor([-1.0, 1.0]), indexing="ij")
    columns = torch.cat([few[None].repeat(3, 1, 1), many[None].repeat(60, 1, 1)])[None]
    assert principal_colours(columns).explained[:2] == pytest.approx((60 / 63, 3 / 63))
    assert principal_colours(columns, widths=[3, 60]).explained[:2] == pytest.approx((0.5, 0.5))


def test_the_foreground_is_the_planted_thing_whatever_the_sign() -> None:
    first = np.full((2, 10, 10), -1.0)
    first[:, 3:7, 2:6] = 2.0
    thing = first > 0
    assert (foreground_of(first) == thing).all()
    assert (foreground_of(-first) == thing).all()
    assert foreground_of(np.zeros((1, 4, 4))).all()


def test_of_the_foreground_the_colours_are_its_own_parts() -> None:
    """A thing of two halves on a plain ground: the halves differ, and the ground is black."""
    columns = torch.zeros(1, 8, 12, 12)
    columns[:, :4, 3:9, 3:9] = 5.0
    columns[:, 4, 3:9, 3:6] = 1.0
    columns[:, 5, 3:9, 6:9] = 1.0
    found = principal_colours(columns, foreground=True)
    thing = np.zeros((12, 12), dtype=bool)
    thing[3:9, 3:9] = True
    assert found.foreground is not None
    assert (found.foreground[0] == thing).all()
    assert found.rgb[0][~thing].max() == 0
    left, right = found.rgb[0, 3:9, 3:6, 0], found.rgb[0, 3:9, 6:9, 0]
    assert abs(float(left.mean() - right.mean())) > 0.9


def test_features_that_have_no_colours_are_refused() -> None:
    columns = planted()[0]
    columns[0, 3, 2, 2] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        principal_colours(columns)
    with pytest.raises(ValueError, match="3 colours need 3 channels, the features have 2"):
        principal_colours(planted()[0][:, :2])
