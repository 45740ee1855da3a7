"""The products of the losses, beside those that torch counts while they are computed."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from viewmill.engine.config import load_config
from viewmill.methods.imsvd import imsvd_loss
from viewmill.methods.vmf import hydes_loss
from viewmill.tools.bench.loss_process import IN_PLACE
from viewmill.tools.planning.loss_flops import hydes_flops, loss_flops
from viewmill.tools.planning.workload import count_workload


@pytest.mark.parametrize("vectors", [256, 2048])  # one tile, and a row of two
def test_hydes_has_the_products_that_torch_counts(vectors: int) -> None:
    z = torch.randn(4, vectors // 4, 8, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        hydes_loss(z).loss.backward()
    local = 2 * 2 * 4 * vectors * 8  # the (n, V, V) product of the local term, forward and backward
    formula = hydes_flops(vectors, vectors, 8, 1024, triton=False)
    assert counter.get_total_flops() == pytest.approx(formula, abs=2 * local)


def test_imsvd_has_the_products_that_torch_counts() -> None:
    config = load_config("imsvd_cifar10", ["batch_size=16", "method.variables=4", "method.units=8"])
    z1, z2 = (torch.randn(16, 32, requires_grad=True) for _ in range(2))
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        imsvd_loss(z1, z2, units=8).loss.backward()
    assert loss_flops(config, count_workload(config), 1) == counter.get_total_flops()


def test_ranks_share_the_products_out() -> None:
    config = load_config("imsvd_imagenet")
    work = count_workload(config)
    assert loss_flops(config, work, 32) == loss_flops(config, work, 1) / 32
    whole, half = (hydes_flops(own, 8192, 64, 1024, triton=True) for own in (8192, 4096))
    assert whole == 2 * half
