"""The memory of a rank: in float32 the measured formula of `bench memory`; half types, offload, teacher."""

import pytest
from viewmill.tools.bench.memory import MIB
from viewmill.tools.bench.memory_rank import Counted
from viewmill.tools.bench.training_memory import formula
from viewmill.tools.planning.rank_memory import loss_bytes, rank_memory
from viewmill.tools.planning.workload import Workload

from tests.tools.planning.plans import WORK, config


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (4, 1), (4, 2)])
@pytest.mark.parametrize("weights", [1_000_000, 400_000_000])  # below and above the bucket
def test_float32_is_the_formula_that_was_measured(
    stage: int, ranks: int, accumulation: int, weights: int
) -> None:
    run, work = config(zero={"stage": stage}, accumulation=accumulation), WORK._replace(weights=weights)
    images = run.batch_size // (ranks * accumulation)
    counted = Counted(
        weights=4 * weights / MIB,
        head=4 * work.head_weights / MIB,
        # The bench's rank has little loss; ours stands beside the activations.
        activations=(images * work.activation_bytes + loss_bytes(run, work, ranks)) / MIB,
        views=4 * images * 3 * work.view_pixels / MIB,
    )
    expected, found = formula(counted, stage, ranks, accumulation), rank_memory(run, work, ranks)
    assert found.held / MIB == pytest.approx(expected["held"])
    assert found.peak / MIB == pytest.approx(expected["step_peak"])


def held(work: Workload = WORK, ranks: int = 4, **changes: object) -> float:
    run = config(**changes)
    return rank_memory(run, work._replace(view_pixels=0), ranks).held


def test_half_types_hold_two_bytes_and_a_float32_copy() -> None:
    weights = WORK.weights
    assert held(precision="bf16") == (2 + 4 + 8) * weights
    assert held(precision="bf16", zero={"stage": 2}) == 2 * weights + (4 + 8) * weights / 4


def test_an_offloaded_optimiser_lies_in_the_hosts_memory() -> None:
    run = config(zero={"stage": 2, "offload_optimizer": True})
    found = rank_memory(run, WORK, 4)
    kept = rank_memory(config(zero={"stage": 2}), WORK, 4)
    assert found.host == 12 * WORK.weights / 4
    assert kept.held - found.held == found.host


def test_a_teacher_is_a_copy_that_stage_3_cuts() -> None:
    method = {"name": "distill", "num_clusters": 8}
    own = {"name": "hydes"}
    for stage, share in ((0, 1), (3, 4)):
        extra = held(method=method, zero={"stage": stage}) - held(method=own, zero={"stage": stage})
        assert extra == 4 * WORK.weights / share


def test_checkpointed_activations_leave_their_counted_share() -> None:
    plain, less = (
        rank_memory(config(model={"checkpoint_activations": on}), WORK, 4).peak for on in (False, True)
    )
    assert plain - less == pytest.approx(0.6 * 16 * WORK.activation_bytes)
