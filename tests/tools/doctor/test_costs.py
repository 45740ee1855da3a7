"""The arithmetic of a step whose stages run beside each other."""

import math

import pytest
from viewmill.tools.doctor.beside import Slowdown
from viewmill.tools.doctor.costs import AUGMENT, DECODE, READ, Cost, Costs, charges, own_paths, paths, step_s


def costs(
    *, decode: float = 0.1, augment: float = 0.1, read: float = 0.1, forward: float = 0.1, cores: float = 8.0
) -> Costs:
    """A backward of twice the forward; every stage but reading keeps one processor busy."""
    loader = {READ: Cost(read, 0.0), DECODE: Cost(decode, decode), AUGMENT: Cost(augment, augment)}
    training = {"forward": Cost(forward, forward), "backward": Cost(2 * forward, 2 * forward)}
    return Costs(loader, training, cores)


@pytest.mark.parametrize("decode", [0.0, 0.05, 0.2, 0.3, 1.0])
@pytest.mark.parametrize("cores", [1.0, 2.0, 16.0])
def test_charges_add_up_to_the_step(decode: float, cores: float) -> None:
    found = costs(decode=decode, cores=cores)
    assert math.fsum(charges(found).values()) == pytest.approx(step_s(found), rel=1e-12)


def test_a_charge_is_what_a_step_gains_by_a_little_less_of_the_stage() -> None:
    found, little = costs(decode=0.2), 1e-6
    less = found.with_loader(decode=Cost(0.2 * (1 - little), 0.2 * (1 - little)))
    assert charges(found)[DECODE] * little == pytest.approx(step_s(found) - step_s(less), rel=1e-4)


def test_a_stage_behind_a_longer_path_is_charged_nothing() -> None:
    found = charges(costs(decode=2.0))
    assert found["forward"] + found["backward"] < 1e-6
    assert found[DECODE] / (found[DECODE] + found[AUGMENT]) == pytest.approx(2.0 / 2.1)


def test_a_step_is_never_shorter_than_its_longest_path_and_equal_paths_cost_a_little_more() -> None:
    equal = costs(decode=0.2, augment=0.1, forward=0.1, cores=100.0)  # 0.3 s each
    assert 0.3 < step_s(equal) < 0.3 * 1.07
    assert step_s(costs(decode=1.0, cores=100.0)) == pytest.approx(1.1, rel=1e-6)


def test_on_one_processor_loader_and_training_take_turns() -> None:
    found = costs(cores=1.0)  # 0.2 s of views and 0.3 s of training
    assert step_s(found) == pytest.approx(0.5, rel=0.01)
    assert charges(found)[DECODE] == pytest.approx(0.1, rel=0.05)


def test_reading_is_shared_by_its_threads() -> None:
    assert paths(costs(read=0.8))["reading"] == {READ: pytest.approx(0.2)}


def two(making_s: float, training_s: float, slowdown: Slowdown) -> Costs:
    """Views that are decoded alone, and a training of a forward alone."""
    return Costs({DECODE: Cost(making_s)}, {"forward": Cost(training_s)}, 2.0, slowdown)


@pytest.mark.parametrize(
    ("making_s", "training_s", "slowdown"),
    [
        (0.6, 0.1, Slowdown(1.5, 1.2)),
        (0.1, 0.6, Slowdown(1.5, 1.2)),
        (0.3, 0.3, Slowdown(2.0, 2.0)),
        (0.3, 0.2, Slowdown(1.0, 3.0)),
        (0.2, 0.3, Slowdown(2.5, 1.0)),
    ],
)
def test_a_step_is_as_long_as_that_of_two_that_hold_each_other_up(
    making_s: float, training_s: float, slowdown: Slowdown
) -> None:
    """Beside a simulation in small steps of time: both are at their slower pace until one is done."""
    left = {"making": making_s, "training": training_s}
    slow, time_s, tick_s = slowdown._asdict(), 0.0, 1e-5
    while left:
        for name in left:
            left[name] -= tick_s / (slow[name] if len(left) == 2 else 1.0)
        left = {name: seconds for name, seconds in left.items() if seconds > 0}
        time_s += tick_s
    longest = max(sum(path.values()) for path in paths(two(making_s, training_s, slowdown)).values())
    assert longest == pytest.approx(time_s, abs=1e-4)


@pytest.mark.parametrize("making_s", [0.0, 0.05, 0.2, 0.3, 1.0])
def test_charges_add_up_where_stages_hold_each_other_up(making_s: float) -> None:
    found = two(making_s, 0.2, Slowdown(1.3, 1.6))
    assert math.fsum(charges(found).values()) == pytest.approx(step_s(found), rel=1e-12)
    assert "processors" not in paths(found)


def test_a_stages_own_pace_is_that_with_nothing_beside_it() -> None:
    found = own_paths(two(0.3, 0.2, Slowdown(2.0, 2.0)))
    assert found["making"] == {DECODE: 0.3}
    assert found["training"] == {"forward": 0.2}
