"""Activations computed a second time in the backward: less is kept, and nothing else changes, to the bit."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from viewmill.engine.backbones import checkpoint_activations
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.model import build_student
from viewmill.engine.partition import whole_state
from viewmill.engine.step import train_step
from viewmill.engine.world import World, start_world, stop_world
from viewmill.engine.zero import initialize

from tests.engine.small_training import equal
from tests.engine.tiny import tiny_config
from tests.support import run_ranks

VALUES = {"kappa": 5.0, "alpha": 1.0, "beta": 1.0}
SIZES = (32, 32, 16, 16)


def views(step: int, images: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(images, 3, size, size, generator=generator) for size in SIZES]


class Calls:
    """How often a block of the network ran, and the bytes that autograd kept at the end of each forward."""

    def __init__(self, student: nn.Module) -> None:
        self.blocks, self.kept = 0, 0
        backbone: Any = student.backbone
        block = backbone.blocks[0] if hasattr(backbone, "blocks") else backbone.layer1[0]
        # Before it: a second forward stops when it has all that the backward needs, ahead of the block's end.
        block.register_forward_pre_hook(self.count)

    def count(self, *_: Any) -> None:
        self.blocks += 1

    def keep(self, tensor: Tensor) -> Tensor:
        self.kept += tensor.nbytes
        return tensor


def run(
    world: World, backbone: str, stage: int, accumulation: int, recomputes: bool, precision: str = "fp32"
) -> dict[str, Any]:
    """Three steps of HyDeS on the same global batches whatever the number of ranks."""
    config = tiny_config(
        model={"backbone": backbone, "checkpoint_activations": recomputes},
        zero={"stage": stage},
        accumulation=accumulation,
        precision=precision,
    )
    student: Any = build_student(config.model, config.method, image_size=32, seed=0)
    student = convert_batchnorm(student, world.device).train()
    engine, calls, losses = initialize(student, config, world), Calls(student), []
    for step in range(3):
        parts = [
            [view[world.rank :: world.world_size] for view in views(10 * step + part, 8 // accumulation)]
            for part in range(accumulation)
        ]
        with torch.autograd.graph.saved_tensors_hooks(calls.keep, lambda kept: kept):
            done = train_step(engine, None, parts, VALUES, labels=torch.zeros(8))
        losses.append(done.result.loss.item())
    state = {name: value.clone() for name, value in whole_state(engine.module)}
    return {"losses": losses, "state": state, "blocks": calls.blocks, "kept": calls.kept}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    world = start_world("cpu")
    yield world
    stop_world(world)
    torch.set_num_threads(threads)


CASES = [("test_resnet", 0, 1), ("test_resnet", 2, 2), ("test_resnet", 3, 1), ("test_vit", 1, 1)]
CASES += [("test_vit", 3, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "stage", "accumulation"), CASES)
def test_weights_losses_and_running_statistics_are_the_same_bits(
    world: World, backbone: str, stage: int, accumulation: int
) -> None:
    plain, again = (run(world, backbone, stage, accumulation, recomputes) for recomputes in (False, True))
    assert again["losses"] == plain["losses"]
    assert equal(again["state"], plain["state"])
    # Two sizes a forward; each of them, and no other, once more in its backward.
    assert again["blocks"] - plain["blocks"] == 3 * 2 * accumulation
    assert again["kept"] < plain["kept"]


@pytest.mark.slow
def test_bf16_is_the_same_bits_too(world: World) -> None:
    # oneDNN's bfloat16 convolutions give other bits from one time to the next on some processors (an EPYC
    # with avx512_bf16), whoever calls them; torch's own do not.
    with torch.backends.mkldnn.flags(enabled=False):
        plain, again = (run(world, "test_resnet", 0, 1, recomputes, "bf16") for recomputes in (False, True))
    assert again["losses"] == plain["losses"]
    assert equal(again["state"], plain["state"])


def on_a_rank(rank: int) -> dict[str, bool]:
    world = World(rank, 2, rank, torch.device("cpu"))
    found = {}
    for stage in (0, 3):
        plain, again = (run(world, "test_resnet", stage, 1, recomputes) for recomputes in (False, True))
        found[f"stage {stage}"] = again["losses"] == plain["losses"] and equal(again["state"], plain["state"])
    return found


@pytest.mark.slow
def test_ranks_share_the_statistics_of_the_second_forward_too() -> None:
    assert run_ranks(2, on_a_rank) == [{"stage 0": True, "stage 3": True}] * 2


def test_a_backbone_that_cannot_is_refused_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"timm cannot with model.backbone='my_net'; leave it at false"):
        checkpoint_activations(nn.Linear(1, 1), "my_net")
