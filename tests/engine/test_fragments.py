"""Fragments: over all ranks, every number of every parameter and of its state exactly once."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from viewmill.engine.fragments import check_cover, owned
from viewmill.engine.world import World

from tests.engine.small_training import STAGES, engine_of, network, weights_of
from tests.engine.two_ranks import fragments_of

KINDS = ("weight", "exp_avg", "exp_avg_sq", "step")
Row = tuple[str, str, int, int, list[int]]  # name, kind, offset, numel, shape


def times_written(rows: list[Row]) -> dict[tuple[str, str], list[int]]:
    """How often each number of each (kind, parameter) is among the fragments."""
    counts: dict[tuple[str, str], list[int]] = {}
    for name, parameter in network().named_parameters():
        for kind in KINDS if parameter.requires_grad else KINDS[:1]:
            counts[kind, name] = [0] * (1 if kind == "step" else parameter.numel())
    for name, kind, offset, numel, _ in rows:
        for position in range(offset, offset + numel):
            counts[kind, name][position] += 1
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_writes_every_number_once(world: World, stage: int) -> None:
    assert all(set(counts) == {1} for counts in times_written(fragments_of(world, stage)).values())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_together_write_every_number_once(ranks: list[dict[str, Any]], stage: int) -> None:
    rows = [row for rank in ranks for row in rank["fragments"][stage]]
    assert all(set(counts) == {1} for counts in times_written(rows).values())


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_write_about_equally_much(ranks: list[dict[str, Any]], stage: int) -> None:
    sizes = [sum(numel for _, _, _, numel, _ in rank["fragments"][stage]) for rank in ranks]
    assert abs(sizes[0] - sizes[1]) <= 0.05 * sum(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_fragments_know_the_whole_shape(world: World, stage: int) -> None:
    shapes = {name: list(parameter.shape) for name, parameter in network().named_parameters()}
    for name, kind, _, _, shape in fragments_of(world, stage):
        assert shape == ([] if kind == "step" else shapes[name])


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_fragments_hold_the_numbers_of_the_module(world: World, stage: int) -> None:
    engine = engine_of(world, stage)
    weights = {name: weight.reshape(-1) for name, weight in weights_of(engine).items()}
    for one in owned(engine):
        if one.kind == "weight":
            assert one.tensor.equal(weights[one.name][one.offset : one.offset + one.numel])


@given(st.lists(st.integers(1, 9), max_size=8), st.data())
def test_any_tiling_is_a_cover_and_any_part_less_is_none(sizes: list[int], data: st.DataObject) -> None:
    stretches, position = [], 0
    for size in sizes:
        stretches.append((position, size))
        position += size
    shuffled = data.draw(st.permutations(stretches))
    assert check_cover(position, shuffled) is None
    if shuffled:
        assert check_cover(position, shuffled[1:]) is not None
        assert check_cover(position, [*shuffled, shuffled[0]]) is not None


def test_a_gap_and_an_overlap_are_told_apart() -> None:
    assert check_cover(9, [(0, 4), (6, 3)]) == "the numbers from 4 to 6 are missing"
    assert check_cover(9, [(0, 4), (2, 7)]) == "the numbers from 2 to 4 are there twice"
    assert check_cover(9, [(0, 4)]) == "4 numbers are there, of 9"
