"""Sums, means and gathers over ranks, with the gradients that their convention promises."""

from typing import Any

import pytest
import torch
from torch import Tensor
from viewmill.methods.collectives import (
    all_gather_rows,
    check_equal_shapes,
    mean_over_ranks,
    rank,
    sum_over_ranks,
    world_size,
)

from tests.support import run_ranks

RANKS = 2
# How much each rank makes of a shared value, so that their gradients differ.
WEIGHTS = [3.0, 5.0]
ROWS = torch.arange(12.0).view(RANKS * 2, 3)


def use_collectives(this_rank: int) -> dict[str, Any]:
    rows = ROWS[2 * this_rank : 2 * this_rank + 2].clone().requires_grad_()
    gathered = all_gather_rows(rows)
    total = sum_over_ranks(rows)
    (sum_grad,) = torch.autograd.grad((WEIGHTS[this_rank] * total).sum(), rows)
    parameter = torch.tensor(2.0, requires_grad=True)
    loss = mean_over_ranks((parameter * rows.detach()).square().mean())
    loss.backward()
    refusals = []
    for shape in ((2, 3), (2 + this_rank, 3), (2,) * (1 + this_rank), (1,) * (8 + this_rank)):
        try:
            check_equal_shapes(shape, rows.device)
            refusals.append("")
        except ValueError as error:
            refusals.append(str(error))
    return {
        "place": (rank(), world_size()),
        "gathered": gathered.detach(),
        "gathered carries gradient": gathered.requires_grad,
        "total": total.detach(),
        "sum_grad": sum_grad,
        "loss": loss.detach(),
        "loss_grad": parameter.grad,
        "refusals": refusals,
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(RANKS, use_collectives)


def test_a_gather_holds_all_rows_in_rank_order_and_no_gradient(ranks: list[dict[str, Any]]) -> None:
    for place, result in enumerate(ranks):
        assert result["place"] == (place, RANKS)
        assert torch.equal(result["gathered"], ROWS)
        assert not result["gathered carries gradient"]


def test_the_backward_of_a_sum_is_the_sum_of_the_gradients(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        assert torch.equal(result["total"], ROWS[:2] + ROWS[2:])
        assert torch.equal(result["sum_grad"], torch.full((2, 3), sum(WEIGHTS)))


def test_the_mean_of_the_ranks_gradients_is_that_of_the_global_loss(ranks: list[dict[str, Any]]) -> None:
    parameter = torch.tensor(2.0, requires_grad=True)
    expected = (parameter * ROWS).square().mean()
    expected.backward()
    gradients: list[Tensor] = [result["loss_grad"] for result in ranks]
    assert gradients[0] != gradients[1]
    torch.testing.assert_close(torch.stack(gradients).mean(), parameter.grad)
    for result in ranks:
        torch.testing.assert_close(result["loss"], expected.detach())


def test_every_rank_refuses_shapes_that_differ(ranks: list[dict[str, Any]]) -> None:
    for result in ranks:
        equal, rows, dimensions, many = result["refusals"]
        assert equal == ""
        assert "size of dimension 0 differs between ranks (2 to 3" in rows
        assert "number of dimensions differs between ranks (1 to 2" in dimensions
        assert "number of dimensions differs between ranks (8 to 9" in many


def test_without_a_process_group_nothing_is_communicated() -> None:
    x = ROWS.clone().requires_grad_()
    assert sum_over_ranks(x) is x
    assert mean_over_ranks(x) is x
    assert torch.equal(all_gather_rows(x), x)
    assert (rank(), world_size()) == (0, 1)
