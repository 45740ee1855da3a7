"""Micro-batches on two ranks: at every ZeRO stage the training of one process on the large batch."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from viewmill.engine.world import World, start_world, stop_world
from viewmill.engine.zero import ZeroEngine, initialize

from tests.engine.large_batch import (
    METHODS,
    SPLITS,
    VALUES,
    assert_same_training,
    large_batch_gradients,
    large_batch_run,
    largest_difference,
    micro_batch_run,
    own_gradients,
    settings,
    step_of,
    student_of,
)
from tests.engine.small_training import STAGES, equal
from tests.engine.two_ranks import held
from tests.support import run_ranks

pytestmark = pytest.mark.slow
PROJECTOR = {"layers": 2, "hidden": 32, "dim": 16}
BATCHNORM: dict[str, Any] = {
    "model": {"backbone": "test_resnet"},
    "method": {"beta": 0.5, "projector": PROJECTOR},
}
# Method -> (ZeRO stage, micro-batches of a rank), each pair once; one process runs all for every method.
RUNS = {
    "hydes": [(0, 4), (1, 1), (2, 2), (3, 4)],
    "imsvd": [(0, 1), (1, 2), (2, 4), (3, 1)],
    "distill": [(0, 2), (1, 4), (3, 2)],
    "labels": [(2, 1)],
}
assert {pair for pairs in RUNS.values() for pair in pairs} == set(SPLITS)
LAST_OF_RANK_1 = 7  # in the second micro-batch of two


def on_two_ranks(rank: int) -> dict[str, Any]:
    world = World(rank, 2, rank, torch.device("cpu"))
    seen: dict[str, Any] = {
        "gradients": {
            f"{method} {accumulation}": own_gradients(method, world, accumulation)
            for method in METHODS
            for accumulation in (1, 2, 4)
        },
        "runs": {
            f"{method} {stage} {accumulation}": micro_batch_run(
                method, world, stage=stage, accumulation=accumulation
            )
            for method in METHODS
            for stage, accumulation in RUNS[method]
        },
        "batchnorm": micro_batch_run("hydes", world, stage=1, accumulation=2, **BATCHNORM),
        "skips": {
            f"{precision} {stage}": skipped(world, stage, precision)
            for precision in ("fp32", "bf16")
            for stage in STAGES
        },
    }
    return seen


def skipped(world: World, stage: int, precision: str) -> dict[str, Any]:
    """Three steps by two micro-batches; the second has an image on rank 1 that is no numbers."""
    spoilt, without = (engine_of(world, stage, precision) for _ in range(2))
    applied = [step_of(spoilt, None, VALUES["hydes"], 0, 2).applied]
    before = held(spoilt)
    applied.append(step_of(spoilt, None, VALUES["hydes"], 1, 2, spoilt=LAST_OF_RANK_1).applied)
    unmoved = equal(held(spoilt), before)
    applied.append(step_of(spoilt, None, VALUES["hydes"], 2, 2).applied)
    for step in (0, 2):
        step_of(without, None, VALUES["hydes"], step, 2)
    return {"applied": applied, "unmoved": unmoved, "forgotten": equal(held(spoilt), held(without))}


def engine_of(world: World, stage: int, precision: str) -> ZeroEngine:
    config = settings("hydes", zero={"stage": stage}, precision=precision, accumulation=2)
    return initialize(student_of(config), config, world)


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return run_ranks(2, on_two_ranks)


@pytest.fixture
def alone() -> Iterator[World]:
    world = start_world("cpu")
    yield world
    stop_world(world)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("method", METHODS)
def test_each_ranks_gradients_are_its_part_of_those_of_the_large_batch_in_float64(
    ranks: list[dict[str, Any]], method: str, accumulation: int
) -> None:
    parts = [seen["gradients"][f"{method} {accumulation}"] for seen in ranks]
    for rank, part in enumerate(parts):
        assert largest_difference(part, large_batch_gradients(method, rank, 2, accumulation)) <= 1e-14
    mean = {name: (part + parts[1][name]) / 2 for name, part in parts[0].items()}
    assert largest_difference(mean, large_batch_gradients(method, 0, 1)) <= 1e-14


@pytest.mark.parametrize("method", METHODS)
def test_every_stage_and_accumulation_trains_as_one_process_on_the_large_batch(
    ranks: list[dict[str, Any]], method: str
) -> None:
    expected = large_batch_run(method)
    for stage, accumulation in RUNS[method]:
        for seen in ranks:
            assert_same_training(seen["runs"][f"{method} {stage} {accumulation}"], expected)


def test_batchnorm_over_micro_batches_is_the_same_on_one_rank_and_on_two(
    ranks: list[dict[str, Any]], alone: World
) -> None:
    expected = micro_batch_run("hydes", alone, stage=0, accumulation=2, **BATCHNORM)
    assert any("running_var" in name for name in expected["moved"])
    for seen in ranks:
        assert_same_training(seen["batchnorm"], expected, bound=1e-4)  # BatchNorm enlarges rounding


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_bad_image_in_one_micro_batch_of_one_rank_skips_the_step_on_all(
    ranks: list[dict[str, Any]], stage: int, precision: str
) -> None:
    for seen in ranks:
        found = seen["skips"][f"{precision} {stage}"]
        assert found == {"applied": [True, False, True], "unmoved": True, "forgotten": True}
