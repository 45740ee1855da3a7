"""Values that follow the step: pure functions, so that a resumed run needs no state of them."""

import math

from viewmill.engine.config import RunConfig
from viewmill.engine.optimizer_config import AdamWConfig
from viewmill.engine.optimizers import Rates
from viewmill.engine.scheduled import value_at, varies


def warmup_cosine(step: int, *, peak: float, floor: float, warmup_steps: int, total_steps: int) -> float:
    """Linear rise to the peak, then half a cosine down to the floor.

    The rise ends with the peak at step `warmup_steps` - 1, so that step 0 already moves. The floor would be
    reached at `total_steps`, one after the last step.
    Source: Loshchilov and Hutter, SGDR, equation 5, one period.

    Args:
        step: of the whole run, counted from 0.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * share))


def learning_rate(step: int, config: RunConfig, steps_per_epoch: int) -> float:
    """The learning rate of this step; `epochs`, not `max_steps`, is where the cosine ends."""
    schedule, peak = config.schedule, config.optimizer.lr
    return warmup_cosine(
        step,
        peak=peak,
        floor=schedule.floor(peak),
        warmup_steps=round(schedule.warmup_epochs * steps_per_epoch),
        total_steps=config.epochs * steps_per_epoch,
    )


def rates(step: int, config: RunConfig, steps_per_epoch: int) -> Rates:
    """What the optimiser is told for this step."""
    optimizer, epoch = config.optimizer, step / steps_per_epoch
    momentum = None
    if not isinstance(optimizer, AdamWConfig):
        momentum = value_at(optimizer.momentum, epoch, config.epochs)
    decay = value_at(optimizer.weight_decay, epoch, config.epochs)
    return Rates(learning_rate(step, config, steps_per_epoch), decay, momentum)


def method_values(step: int, config: RunConfig, steps_per_epoch: int) -> dict[str, float]:
    """The numbers that the method takes at this step, by name; `epochs` is where their schedules end."""
    epoch = step / steps_per_epoch
    return {name: value_at(one, epoch, config.epochs) for name, one in config.method.scheduled().items()}


def scheduled_values(step: int, config: RunConfig, steps_per_epoch: int) -> dict[str, float]:
    """The numbers of this step that change in the course of training, for the log; `lr` always."""
    of_method = method_values(step, config, steps_per_epoch)
    changing = {name: of_method[name] for name, one in config.method.scheduled().items() if varies(one)}
    told = rates(step, config, steps_per_epoch)._asdict()
    moving = [name for name in ("weight_decay", "momentum") if varies(getattr(config.optimizer, name, 0.0))]
    return changing | {name: told[name] for name in ("lr", *moving)}
