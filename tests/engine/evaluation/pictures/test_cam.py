"""Heat of a score: it stands where the image has what the score depends on."""

import pytest
import torch
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns, Stage
from viewmill.engine.evaluation.linear_probe import LinearProbe
from viewmill.engine.evaluation.pictures.cam import (
    NEEDS,
    class_directions,
    grad_cam,
    is_installed,
    own_directions,
    smooth_grad_cam,
)

pytestmark = pytest.mark.skipif(not is_installed(), reason="torchcam wants Python 3.11")
SIDE = 32
STAGES = [Stage("colours", 3, (SIDE, SIDE)), Stage("coarse", 3, (SIDE // 4, SIDE // 4))]


class Colours(nn.Module):
    """Two stages of maps, one a colour of the image; the features are how much there is of each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.colours, self.coarse = nn.ReLU(), nn.AvgPool2d(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.coarse(self.colours(images)).mean(dim=(2, 3))


def corners() -> Tensor:
    """Two images: red in the upper left corner and blue in the lower right one."""
    images = torch.zeros(2, 3, SIDE, SIDE)
    images[:, 0, :8, :8] = 4.0
    images[:, 2, -8:, -8:] = 4.0
    return images


def test_the_corner_that_the_score_depends_on_lights() -> None:
    red, blue = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = smooth_grad_cam(Colours(), STAGES, corners(), torch.stack([red, blue]), [5, 6], noise=0.02)
    assert [tuple(maps.shape) for maps in found.stages.values()] == [(2, 32, 32), (2, 8, 8)]
    assert found.fused.shape == (2, 32, 32)
    for maps in (found.stages["colours"], found.fused):
        assert maps[0, :8, :8].min() > 0.95  # of the first image the red corner
        assert maps[0, -8:, -8:].max() < 0.05
        assert maps[1, -8:, -8:].min() > 0.95  # of the second the blue one
        assert maps[1, :8, :8].max() < 0.05


def test_the_noise_of_an_image_is_its_own_and_leaves_the_generator_alone() -> None:
    backbone = build_backbone("test_resnet", image_size=SIDE).eval()
    stages = Hypercolumns(backbone, (SIDE, SIDE)).stages
    images, directions = corners()[:1], torch.ones(1, int(backbone.num_features))  # type: ignore[arg-type]
    state = torch.random.get_rng_state()
    alone = smooth_grad_cam(backbone, stages, images, directions, [5]).fused
    assert torch.equal(torch.random.get_rng_state(), state)
    pair = smooth_grad_cam(backbone, stages, images.repeat(2, 1, 1, 1), directions.repeat(2, 1), [9, 5]).fused
    assert torch.equal(pair[1:], alone)
    assert not torch.equal(pair[:1], alone)


def test_a_unit_lights_where_it_is_active() -> None:
    maps = grad_cam(Colours(), "colours", corners(), [2, 0])
    assert maps[0, -8:, -8:].min() > 0.95
    assert maps[0, :8, :8].max() == 0
    assert maps[1, :8, :8].min() > 0.95


def test_what_sets_an_image_apart_is_its_direction_less_the_mean() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    found = own_directions(features, [0])
    mean = torch.tensor([1 / 3, 2 / 3])
    expected = (torch.tensor([1.0, 0.0]) - mean) / (torch.tensor([1.0, 0.0]) - mean).norm()
    torch.testing.assert_close(found[0], expected)
    with pytest.raises(ValueError, match="all images have the same representation"):
        own_directions(torch.ones(3, 2), [1])


def test_the_direction_of_a_class_is_the_gradient_of_its_logit() -> None:
    probe = LinearProbe(
        torch.tensor([1.0, 2.0, 0.0]), torch.tensor([2.0, 0.5, torch.inf]), torch.randn(3, 4), torch.randn(4)
    )
    features = torch.randn(2, 3, requires_grad=True)
    logits = probe.logits(features)
    (gradient,) = torch.autograd.grad(logits[0, 3] + logits[1, 1], features)
    torch.testing.assert_close(class_directions(probe, [3, 1]), gradient)


def test_stages_that_are_no_maps_and_weights_that_diverged_are_refused() -> None:
    vit = build_backbone("test_vit", image_size=SIDE).eval()
    stages = Hypercolumns(vit, (SIDE, SIDE)).stages
    with pytest.raises(ValueError, match=r"no map .*take a CNN, or the picture attention"):
        smooth_grad_cam(vit, stages, corners(), torch.ones(2, 64), [0, 1])
    images = corners()
    images[1, 0, 0, 0] = torch.nan
    with pytest.raises(RuntimeError, match="output for sample 8 is not finite"):
        smooth_grad_cam(Colours(), STAGES, images, torch.ones(2, 3), [7, 8])


def test_the_error_without_torchcam_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchcam", None)
    with pytest.raises(ImportError) as caught:
        grad_cam(Colours(), "colours", corners(), [0, 0])
    assert str(caught.value) == NEEDS
