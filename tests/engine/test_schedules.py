"""The learning rate as a function of the step."""

import math

import pytest
from viewmill.engine.config import RunConfig, ScheduleConfig
from viewmill.engine.optimizer_config import AdamWConfig
from viewmill.engine.schedules import learning_rate, rates, scheduled_values, warmup_cosine


def curve(warmup_steps: int, total_steps: int, floor: float = 0.1) -> list[float]:
    return [
        warmup_cosine(step, peak=1.0, floor=floor, warmup_steps=warmup_steps, total_steps=total_steps)
        for step in range(total_steps)
    ]


def test_the_warm_up_is_linear_from_the_first_step_and_ends_at_the_peak() -> None:
    assert curve(4, 20)[:4] == [0.25, 0.5, 0.75, 1.0]


def test_the_cosine_starts_at_the_peak_and_is_half_way_in_the_middle() -> None:
    rates = curve(4, 20)
    assert rates[4] == 1.0
    assert rates[12] == pytest.approx((1.0 + 0.1) / 2)


def test_the_cosine_falls_to_the_floor_and_stays_there() -> None:
    rates = curve(2, 50)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0.1 < rates[-1] < 0.11
    assert warmup_cosine(80, peak=1.0, floor=0.1, warmup_steps=2, total_steps=50) == pytest.approx(0.1)


def test_it_is_the_published_formula() -> None:
    expected = 0.1 + 0.5 * (1 - 0.1) * (1 + math.cos(math.pi * 7 / 16))  # SGDR, equation 5, T_cur 7 of 16
    assert curve(4, 20)[11] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("warmup_steps", [0, 5, 9])
def test_a_warm_up_as_long_as_the_run_or_none_is_defined(warmup_steps: int) -> None:
    assert all(0 < rate <= 1 for rate in curve(warmup_steps, 5))


def config(**schedule: object) -> RunConfig:
    optimizer, chosen = AdamWConfig(lr=0.5), ScheduleConfig.model_validate(schedule)
    return RunConfig(epochs=4, batch_size=8, max_steps=3, optimizer=optimizer, schedule=chosen)


def test_a_constant_rate_stays_at_the_peak_after_the_warm_up() -> None:
    constant = config(constant=True, warmup_epochs=0.5)
    assert [learning_rate(step, constant, 4) for step in (0, 1, 2, 15)] == [0.25, 0.5, 0.5, 0.5]


def test_the_floor_is_a_share_of_the_peak_or_a_rate() -> None:
    for schedule in ({"final_lr_fraction": 0.5}, {"final_lr": 0.25}):
        chosen = config(**schedule)
        assert learning_rate(16, chosen, 4) == pytest.approx(0.25)
        assert learning_rate(8, chosen, 4) == pytest.approx(0.375)


def test_a_floor_above_the_peak_is_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule.final_lr 0.75 is above optimizer.lr 0.5"):
        config(final_lr=0.75)


def test_weight_decay_and_momentum_follow_their_schedules() -> None:
    line = {"kind": "linear", "start": 0.0, "end": 0.8}
    optimizer = {"name": "sgd", "lr": 0.5, "momentum": line, "weight_decay": line | {"end": 0.4}}
    chosen = RunConfig.model_validate({"epochs": 4, "batch_size": 8, "optimizer": optimizer})
    assert rates(8, chosen, 4) == pytest.approx((0.25, 0.2, 0.4))
    assert scheduled_values(8, chosen, 4) == pytest.approx({"lr": 0.25, "weight_decay": 0.2, "momentum": 0.4})
    assert rates(8, config(), 4).momentum is None


def test_stopping_early_does_not_change_the_schedule() -> None:
    assert learning_rate(8, config(), 4) == pytest.approx(0.25)  # half of 4 epochs of 4 steps
