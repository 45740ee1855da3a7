"""The loss scale of fp16: when it changes, what of it is saved, and which settings it takes."""

from typing import Any

import pytest
from viewmill.engine.config import ConfigError
from viewmill.engine.loss_scale import LossScale, LossScaleConfig

from tests.engine.tiny import tiny_config


def scale(**told: Any) -> LossScale:
    return LossScale(LossScaleConfig(**told))


def test_it_doubles_after_so_many_good_steps_and_counts_anew() -> None:
    kept, seen = scale(initial=4.0, growth_interval=3), []
    for _ in range(7):
        kept.applied()
        seen.append(kept.value)
    assert seen == [4, 4, 8, 8, 8, 16, 16]


def test_an_overflow_halves_it_and_the_good_steps_before_count_no_more() -> None:
    kept = scale(initial=8.0, growth_interval=2)
    kept.applied()
    assert kept.lower()
    kept.applied()
    assert kept.value == 4
    kept.applied()
    assert kept.value == 8


def test_at_its_floor_it_stays_and_says_so() -> None:
    kept = scale(initial=4.0, floor=2.0)
    assert [kept.lower(), kept.lower(), kept.value] == [True, False, 2.0]


def test_what_is_saved_goes_on_where_it_stood() -> None:
    kept = scale(initial=4.0, growth_interval=3)
    kept.lower()
    kept.applied()
    again = scale(initial=4.0, growth_interval=3)
    again.load(kept.state())
    for one in (kept, again):
        one.applied()
        one.applied()
    assert again.state() == kept.state() == {"value": 4.0, "good_steps": 0}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"initial": 1000.0}, "a loss scale must be a power of two, got 1000.0"),
        ({"floor": 0.0}, "a loss scale must be a power of two"),
        ({"initial": 2.0, "floor": 4.0}, "loss_scale.initial 2.0 lies below loss_scale.floor 4.0"),
        ({"growth_interval": 0}, "loss_scale.growth_interval must be at least 1"),
    ],
)
def test_a_scale_that_would_round_or_never_grow_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_config(precision="fp16", loss_scale=told)


def test_a_scale_without_fp16_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss_scale changes nothing at precision=bf16"):
        tiny_config(precision="bf16", loss_scale={"initial": 8.0})


def test_a_loss_that_takes_float16_is_refused() -> None:
    with pytest.raises(ConfigError, match="loss_precision=model at precision=fp16"):
        tiny_config(precision="fp16", loss_precision="model")
