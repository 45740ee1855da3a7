"""The projector and the method around the loss."""

import pytest
import torch
from torch import nn
from viewmill.methods.families.registry import METHODS
from viewmill.methods.heads import Projector
from viewmill.methods.vmf import hydes_loss


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_a_projector_has_as_many_linear_maps_as_asked(layers: int, norm: str) -> None:
    projector = Projector(16, 32, 8, layers, norm)
    linear = [module for module in projector if isinstance(module, nn.Linear)]
    assert projector(torch.randn(5, 16)).shape == (5, 8)
    assert [map.in_features for map in linear] == [16, *[32] * (layers - 1)]
    assert [map.bias is None for map in linear] == [norm != "none"] * (layers - 1) + [False]


def test_impossible_projectors_are_refused() -> None:
    with pytest.raises(ValueError, match="must be >= 1"):
        Projector(16, 32, 8, 0)
    with pytest.raises(ValueError, match="'group' is not one of"):
        Projector(16, 32, 8, 2, "group")


def test_hydes_takes_the_loss_of_its_embeddings() -> None:
    torch.manual_seed(0)
    method = METHODS["hydes"](Projector(12, 16, 8, 2))
    z = method.embed(torch.randn(3 * 4, 12)).view(3, 4, 8)
    outcome = method.loss(z, {"kappa": 5.0, "alpha": 1.0, "beta": 0.5})
    assert torch.equal(outcome.loss, hydes_loss(z, kappa=5.0, beta=0.5).loss)
    assert set(outcome.metrics) == {"h_global", "h_local", "mutual_information"}
    assert not any(value.requires_grad for value in outcome.metrics.values())
