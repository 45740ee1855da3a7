"""Numbers that follow training, and the settings that say how."""

import math

import pytest
from viewmill.engine.config import ConfigError, RunConfig, config_from
from viewmill.engine.scheduled import Ramp, Steps, value_at, varies
from viewmill.engine.schedules import method_values, scheduled_values


def config(**method: object) -> RunConfig:
    return config_from({"epochs": 4, "batch_size": 8, "method": method}, where="test")


def test_a_line_goes_from_start_to_end_between_its_epochs() -> None:
    ramp = Ramp(kind="linear", start=2.0, end=4.0, begin_epoch=1.0, end_epoch=3.0)
    assert [value_at(ramp, epoch, 10) for epoch in (0, 1, 1.5, 3, 9)] == [2.0, 2.0, 2.5, 4.0, 4.0]


def test_a_cosine_ends_with_the_run_where_no_epoch_is_given() -> None:
    ramp = Ramp(kind="cosine", start=0.996, end=1.0)
    assert value_at(ramp, 0, 10) == 0.996
    assert value_at(ramp, 2.5, 10) == pytest.approx(0.996 + 0.004 * (1 - math.cos(math.pi / 4)) / 2)
    assert value_at(ramp, 10, 10) == 1.0


def test_steps_jump_at_their_epochs() -> None:
    steps = Steps(kind="steps", values=(20.0, 10.0, 1.0), epochs=(1.0, 2.5))
    assert [value_at(steps, epoch, 4) for epoch in (0, 0.99, 1, 2.4, 2.5, 4)] == [20, 20, 10, 10, 1, 1]


def test_values_are_a_function_of_the_step_alone() -> None:
    chosen = config(kappa={"kind": "linear", "start": 20, "end": 1}, beta=0.5)
    assert method_values(6, chosen, 3) == {"kappa": 10.5, "alpha": 1.0, "beta": 0.5}
    assert scheduled_values(6, chosen, 3).keys() == {"kappa", "lr"}
    assert not varies(1.0)


@pytest.mark.parametrize(
    ("kappa", "message"),
    [
        ({"kind": "line", "start": 1, "end": 2}, "method.kappa: expected a number, {kind: linear or cosine"),
        ({"kind": "linear", "start": 1, "end": 0}, "method.kappa: must be greater than 0, got 0.0"),
        ({"kind": "linear", "start": 1, "end": 2, "begin_epoch": 3, "end_epoch": 3}, "must lie before"),
        ({"kind": "steps", "values": [1, 2], "epochs": [1, 2]}, "2 values need 1 epochs between them, got 2"),
        ({"kind": "steps", "values": [1, 2, 3], "epochs": [2, 1]}, "epochs must rise from above 0"),
        ({"kind": "cosine", "start": 1, "end": 2, "by": 1}, "method.kappa.by is no setting"),
        ("fast", "method.kappa: expected a number"),
        (True, "method.kappa: expected a number"),
    ],
)
def test_a_schedule_that_says_nothing_is_refused_in_one_line(kappa: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(kappa=kappa)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
