"""What failures do to a plan: at the recipe's interval of checkpoints and at the best, and when never."""

import math
from typing import Any

import pytest
from viewmill.tools.planning.failures import Checkpointing
from viewmill.tools.planning.predict import Prediction, predict
from viewmill.tools.planning.reliability import (
    Reliable,
    at_interval,
    checkpointing_of,
    goodput_by_logbook,
    own_interval,
    reliability_of,
)

from tests.tools.planning.plans import RATES, cluster, config, plan

SLOW = RATES.model_copy(update={"conv_flops_per_s": 1e8})  # 240 s a step, so that the run takes 67 hours


def prediction(
    checkpoint: dict[str, Any], *, per_node_day: float = 2.0, restart_s: float = 60.0
) -> Prediction:
    own = cluster()
    reliability = own.reliability.model_copy(
        update={"failures_per_node_day": per_node_day, "restart_s": restart_s}
    )
    changed = own.model_copy(update={"reliability": reliability})
    return predict(plan(config(checkpoint=checkpoint), rates=SLOW, cluster=changed))


def reliable(made: Prediction) -> Reliable:
    found = reliability_of(made, runs=4)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("checkpoint", "steps"),
    # 100 steps an epoch, ten epochs.
    [
        ({}, 100),
        ({"every_epochs": 3}, 300),
        ({"every_epochs": None}, 1000),
        ({"every_epochs": 50}, 1000),
        ({"every_epochs": None, "every_steps": 7}, 7),
        ({"every_steps": 50}, 50),  # those of the epochs are among them
        ({"every_steps": 60}, 43),  # 16 and 10, 3 of them the same: 23 in 1,000 steps
    ],
)
def test_the_recipes_interval_is_what_the_engine_saves_at(checkpoint: dict[str, Any], steps: int) -> None:
    assert own_interval(config(checkpoint=checkpoint), 100) == steps


def test_hours_are_those_of_the_recipes_own_checkpoints() -> None:
    seldom, often = (reliable(prediction({"every_epochs": None, "every_steps": steps})) for steps in (400, 5))
    assert seldom.own_steps == 400
    assert seldom.own.closed_form < often.own.closed_form
    assert seldom.own.goodput is not None
    assert often.own.goodput is not None
    assert seldom.own.goodput.goodput < 0.7 * often.own.goodput.goodput
    assert seldom.hours is not None
    assert often.hours is not None
    assert seldom.hours == seldom.own.hours > often.hours
    assert seldom.best == often.best


def test_the_best_interval_is_told_as_the_setting() -> None:
    made = prediction({})
    found = reliable(made)
    assert found.best_steps == max(1, round(found.best.interval_s / made.step_s))
    typed = reliable(prediction({"every_epochs": None, "every_steps": found.best_steps}))
    assert typed.own.closed_form == pytest.approx(found.best.closed_form, rel=0.01)


def test_a_checkpoint_waits_for_the_one_before() -> None:
    assert at_interval(Checkpointing(1.0, 30.0), 60.0) == Checkpointing(1.0, 30.0)
    # After ten seconds of work the last one has 20 s to go.
    assert at_interval(Checkpointing(1.0, 30.0), 10.0) == Checkpointing(21.0, 30.0)


def test_a_teacher_is_in_a_checkpoint() -> None:
    student = plan(config(checkpoint={"background": False}))
    method = {"name": "distill", "num_clusters": 8, "projector": {"layers": 2, "hidden": 64, "dim": 64}}
    both = plan(config(checkpoint={"background": False}, method=method))
    # AdamW: weights and two averages, and with a teacher its weights.
    assert checkpointing_of(both).stall_s == pytest.approx(checkpointing_of(student).stall_s * 4 / 3)


def test_what_is_never_done_is_not_simulated() -> None:
    calls: list[None] = []
    made = prediction({}, per_node_day=1000.0, restart_s=6000.0)
    found = reliability_of(made, runs=1, progress=lambda: calls.append(None))
    assert found is not None
    assert found.hours is None
    assert found.best.goodput is None
    assert not calls


def test_an_interval_that_is_too_long_alone_is_never_done() -> None:
    found = reliable(prediction({"every_epochs": None}, per_node_day=6.0))  # 67 hours, a failure in 2
    assert found.hours is None
    assert found.best.hours is not None
    assert math.isfinite(found.best.hours)


def test_published_rates_stand_beside_it_without_a_simulation() -> None:
    found = goodput_by_logbook(prediction({}))
    assert all(0.9 < goodput < 1 for _, goodput in found.values())
    assert found["RSC-2"][0] > found["RSC-1"][0]
