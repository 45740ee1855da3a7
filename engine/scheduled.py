"""A setting that may follow training: a number, a ramp, or steps; its value follows from the epoch."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from viewmill.engine.strict import StrictModel


class Ramp(StrictModel):
    """From `start` to `end`: a straight line, or half a cosine (flat at both ends)."""

    kind: Literal["linear", "cosine"]
    start: float
    end: float
    begin_epoch: float = Field(default=0.0, ge=0)  # `start` until here
    end_epoch: float | None = Field(default=None, gt=0)  # `end` from here on; None: the end of the run

    @model_validator(mode="after")
    def it_begins_before_it_ends(self) -> "Ramp":
        if self.end_epoch is not None and self.begin_epoch >= self.end_epoch:
            raise ValueError(f"begin_epoch {self.begin_epoch} must lie before end_epoch {self.end_epoch}")
        return self

    def numbers(self) -> tuple[float, ...]:
        return self.start, self.end

    def at(self, epoch: float, epochs: int) -> float:
        last = epochs if self.end_epoch is None else self.end_epoch
        share = min(1.0, max(0.0, (epoch - self.begin_epoch) / max(last - self.begin_epoch, 1e-9)))
        if self.kind == "cosine":
            share = 0.5 - 0.5 * math.cos(math.pi * share)
        return self.start + (self.end - self.start) * share


class Steps(StrictModel):
    """Constant but for jumps: values[0] up to epochs[0], then values[1] up to epochs[1], and so on."""

    kind: Literal["steps"]
    # Not strict: YAML gives lists, which a strict tuple refuses.
    values: tuple[float, ...] = Field(strict=False, min_length=1)
    epochs: tuple[float, ...] = Field(strict=False)

    @model_validator(mode="after")
    def every_jump_has_an_epoch(self) -> "Steps":
        if len(self.values) != len(self.epochs) + 1:
            raise ValueError(
                f"{len(self.values)} values need {len(self.values) - 1} epochs between them, "
                f"got {len(self.epochs)}"
            )
        if any(later <= earlier for earlier, later in zip((0.0, *self.epochs), self.epochs, strict=False)):
            raise ValueError(f"epochs must rise from above 0, got {list(self.epochs)}")
        return self

    def numbers(self) -> tuple[float, ...]:
        return self.values

    def at(self, epoch: float, epochs: int) -> float:
        return self.values[sum(epoch >= edge for edge in self.epochs)]


def _tag(value: Any) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "number"
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return {"linear": "ramp", "cosine": "ramp", "steps": "steps"}.get(str(kind))


Scheduled = Annotated[
    Annotated[float, Tag("number")] | Annotated[Ramp, Tag("ramp")] | Annotated[Steps, Tag("steps")],
    Discriminator(
        _tag,
        custom_error_type="no_schedule",
        custom_error_message=(
            "expected a number, {kind: linear or cosine, start: A, end: B} or "
            "{kind: steps, values: [A, B], epochs: [E]}"
        ),
    ),
]


def numbers_of(scheduled: Scheduled) -> tuple[float, ...]:
    """The numbers between which it moves."""
    return (scheduled,) if isinstance(scheduled, int | float) else scheduled.numbers()


def value_at(scheduled: Scheduled, epoch: float, epochs: int) -> float:
    """Its value after `epoch` (with a fraction) of a run of `epochs`."""
    return float(scheduled) if isinstance(scheduled, int | float) else scheduled.at(epoch, epochs)


def varies(scheduled: Scheduled) -> bool:
    """Whether it has more than one value."""
    return len(set(numbers_of(scheduled))) > 1


def _all(is_good: Callable[[float], bool], what: str) -> AfterValidator:
    def check(scheduled: Scheduled) -> Scheduled:
        bad = [number for number in numbers_of(scheduled) if not is_good(number)]
        if bad:
            raise ValueError(f"must be {what}, got {bad[0]}")
        return scheduled

    return AfterValidator(check)


PositiveScheduled = Annotated[Scheduled, _all(lambda number: number > 0, "greater than 0")]
WeightScheduled = Annotated[Scheduled, _all(lambda number: number >= 0, "0 or more")]
ShareScheduled = Annotated[Scheduled, _all(lambda number: 0 <= number <= 1, "from 0 to 1")]
MomentumScheduled = Annotated[Scheduled, _all(lambda number: 0 <= number < 1, "from 0 to less than 1")]
