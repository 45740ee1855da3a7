"""What a loss is multiplied by before its backward in float16, so that small gradients do not become zero."""

import math
from typing import Any

from pydantic import field_validator, model_validator
from viewmill.engine.strict import StrictModel


class LossScaleConfig(StrictModel):
    """The loss scale of `precision: fp16`, all powers of two: multiplying by them rounds nothing."""

    initial: float = 65536.0
    floor: float = 1.0  # the scale never falls below it
    growth_interval: int = 1000  # applied steps without an overflow after which it doubles

    @field_validator("initial", "floor")
    @classmethod
    def is_a_power_of_two(cls, scale: float) -> float:
        if not (0 < scale < math.inf) or math.frexp(scale)[0] != 0.5:
            raise ValueError(f"a loss scale must be a power of two, got {scale}")
        return scale

    @model_validator(mode="after")
    def begins_above_its_floor(self) -> "LossScaleConfig":
        if self.growth_interval < 1:
            raise ValueError(f"loss_scale.growth_interval must be at least 1, got {self.growth_interval}")
        if self.initial < self.floor:
            raise ValueError(f"loss_scale.initial {self.initial} lies below loss_scale.floor {self.floor}")
        return self


class LossScale:
    """The scale of a run: halved by an overflow, doubled after so many good steps.

    Ours, and not DeepSpeed's: its stages differ in when they double it, some end the run at the floor, and
    none knows whether the loss itself was finite.
    Source: Micikevicius et al. (2018), Mixed precision training, section 3.2.

    Attributes:
        value: of the step to come, the same on every rank.
    """

    def __init__(self, config: LossScaleConfig) -> None:
        self._config = config
        self.value = config.initial
        self._good_steps = 0  # since the scale last changed

    def applied(self) -> None:
        """After each step that was applied."""
        self._good_steps += 1
        if self._good_steps == self._config.growth_interval:
            self._change(2 * self.value)

    def lower(self) -> bool:
        """After a step whose loss was finite and whose gradient was not; False: it is at its floor."""
        if self.value == self._config.floor:
            return False
        self._change(self.value / 2)
        return True

    def _change(self, value: float) -> None:
        self.value, self._good_steps = value, 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"value": self.value, "good_steps": self._good_steps}

    def load(self, state: dict[str, Any]) -> None:
        self.value, self._good_steps = state["value"], state["good_steps"]
