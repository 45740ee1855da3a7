"""On any number of ranks the supervised loss is the global batch's, and its backward communicates nothing."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.methods.families.supervised import Supervised
from viewmill.methods.supervised import supervised_loss

from tests.distributed.test_hydes_on_ranks import silence
from tests.methods.formulas import supervised_in_float64
from tests.support import run_ranks

VIEWS, IMAGES, CLASSES = 3, 8, 5
LABELS = torch.arange(IMAGES) % CLASSES


def global_batch() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(VIEWS, IMAGES, CLASSES, generator=generator, dtype=torch.float64)


def losses_and_gradients(rank: int) -> dict[str, Any]:
    """Of this rank's images, and what unequal shares give."""
    share = IMAGES // dist.get_world_size()
    mine = slice(rank * share, (rank + 1) * share)
    z = global_batch()[:, mine].clone().requires_grad_()
    loss = supervised_loss(z, LABELS[mine])
    with silence():
        loss.backward()
    figures = Supervised(4, CLASSES).diagnostics(z.detach(), {}, LABELS[mine])
    try:
        supervised_loss(global_batch()[:, : rank + 1], LABELS[: rank + 1])
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    return {"loss": loss.detach(), "grad": z.grad, "figures": figures, "refusal": refusal}


@pytest.fixture(
    scope="module",
    params=[1, 2, pytest.param(4, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)],
)
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(request.param, losses_and_gradients)


def test_every_rank_has_the_loss_and_figures_of_the_global_batch(ranks: list[dict[str, Any]]) -> None:
    expected, _ = supervised_in_float64(global_batch().numpy(), LABELS.numpy())
    top1 = (global_batch().argmax(dim=2) == LABELS).double().mean().item()
    for result in ranks:
        assert result["loss"].item() == pytest.approx(expected, rel=1e-10)
        assert result["figures"]["batch_top1"].item() == pytest.approx(top1)


def test_a_ranks_gradient_is_world_size_times_its_part(ranks: list[dict[str, Any]]) -> None:
    _, gradient = supervised_in_float64(global_batch().numpy(), LABELS.numpy())
    joined = torch.cat([result["grad"] for result in ranks], dim=1) / len(ranks)
    torch.testing.assert_close(joined, torch.from_numpy(gradient), rtol=1e-10, atol=1e-12)


def test_unequal_shares_are_refused_on_every_rank(ranks: list[dict[str, Any]]) -> None:
    if len(ranks) == 1:
        assert ranks[0]["refusal"] == ""
        return
    for result in ranks:
        assert f"size of dimension 1 differs between ranks (1 to {len(ranks)}" in result["refusal"]
