"""What a step needs and what it computes are two counts; a GPU is found in the datasheets by its name."""

import pytest
import torch
from viewmill.engine.config import RunConfig
from viewmill.engine.model import build_student
from viewmill.tools.doctor.arithmetic import count_flops, known_gpu, model_flops
from viewmill.tools.planning.loss_flops import loss_flops
from viewmill.tools.planning.workload import count_workload

from tests.engine.tiny import tiny_config

SIZES = (32, 32, *6 * (16,))  # of hydes@32


def counted(config: RunConfig) -> int:
    """Of the network's forward and backward, on a batch."""
    student = build_student(config.model, config.method, image_size=32, seed=0)
    views = [torch.randn(config.batch_size, 3, size, size) for size in SIZES]
    return count_flops(lambda: torch.cat([one.flatten() for one in student(views)]).sum().backward())


def test_what_is_computed_again_is_executed_and_not_needed() -> None:
    plain = tiny_config()
    again = tiny_config(model={"backbone": "test_resnet", "checkpoint_activations": True})
    needed = model_flops(plain, 1)
    assert model_flops(again, 1) == needed
    assert model_flops(tiny_config(accumulation=2), 1) == needed
    network = needed - loss_flops(plain, count_workload(plain), 1)
    # A first layer has no gradient of its inputs, which counts as needed and does not run.
    ran = counted(plain)
    assert 1.0 <= network / ran < 1.2
    assert counted(again) > ran + 0.15 * network  # not all of a forward is made again


def test_ranks_share_what_a_step_needs() -> None:
    config = tiny_config()
    work = count_workload(config)
    for ranks in (1, 2, 4):
        network = model_flops(config, ranks) - loss_flops(config, work, ranks)
        assert network == pytest.approx(8 * work.step_flops / ranks)


def test_the_first_name_that_stands_as_a_word_is_the_datasheet() -> None:
    assert known_gpu("NVIDIA H100 80GB HBM3") == "H100"
    assert known_gpu("NVIDIA H100 PCIe") == "H100 PCIe"
    assert known_gpu("NVIDIA L40S") == "L40S"
    assert known_gpu("NVIDIA GH200 480GB") is None
