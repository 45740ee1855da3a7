"""Optimiser state in the host's memory: the same training, to the bit.

Here the device is the host too. What is tested is the way that gradients, weights and state take; what it
saves on a GPU, and that a sum over ranks goes by way of it, is not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from viewmill.engine.checkpoints.checkpoint import Checkpoint, restore
from viewmill.engine.config import ConfigError
from viewmill.engine.world import World, start_world, stop_world
from viewmill.engine.zero import ZeroEngine

from tests.engine.small_training import engine_of, equal, images, save, train
from tests.engine.tiny import tiny_config
from tests.engine.two_ranks import LARS, held, without_norms

OPTIMIZERS = {"adamw": {"lr": 1e-2}, "sgd": {"name": "sgd", "lr": 1e-2}, "lars": LARS}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = start_world("cpu")
    yield world
    stop_world(world)


def engine(world: World, stage: int, offloads: bool, **told: Any) -> ZeroEngine:
    zero = {"stage": stage, "offload_optimizer": offloads}
    return engine_of(world, stage, without_norms(), zero=zero, **told)


def test_stage_0_has_nothing_to_offload() -> None:
    with pytest.raises(ConfigError, match="offload_optimizer needs zero"):
        tiny_config(zero={"offload_optimizer": True})


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_offloaded_optimizer_moves_the_weights_to_the_same_bits(
    world: World, name: str, precision: str, stage: int
) -> None:
    told: dict[str, Any] = {"precision": precision, "optimizer": OPTIMIZERS[name]}
    here, there = (engine(world, stage, offloads, **told) for offloads in (False, True))
    applied = [train(one, range(4), spoil=2)[1] for one in (here, there)]
    assert applied == [[True, True, False, True]] * 2
    assert equal(held(there), held(here))
    assert there.grad_norm() == pytest.approx(here.grad_norm(), rel=1e-6)  # sums in another order


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_ranks_offload_as_one_whole(ranks: list[dict[str, Any]], stage: int) -> None:
    for rank in ranks:
        assert equal(rank["offloaded"][stage], rank["lars"][stage])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_micro_batches_reach_an_offloaded_optimizer(world: World, stage: int) -> None:
    engines = [engine(world, stage, offloads) for offloads in (False, True)]
    for step in range(2):
        for one in engines:
            first, last = images(step).chunk(2)
            outputs = one.forward_aside(first)
            one.accumulate(outputs, outputs.detach())
            one.backward(one(last).square().sum() / 2)
            assert one.step()
    assert equal(held(engines[1]), held(engines[0]))


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_goes_on_with_its_state_elsewhere(world: World, tmp_path: Path, stage: int) -> None:
    for offloads in (False, True):
        before, after = engine(world, stage, offloads), engine(world, stage, not offloads)
        train(before, range(3))
        path = save(before, tmp_path / str(offloads), 3)
        restore(after, Checkpoint.open(path))
        assert train(after, range(3, 6)) == train(before, range(3, 6))
        assert equal(held(after), held(before))
