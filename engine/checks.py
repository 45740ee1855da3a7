"""What is refused before a run starts: local arithmetic, the same on every rank, ahead of any collective."""

from viewmill.engine.config import ConfigError, RunConfig
from viewmill.methods.families.registry import METHODS
from viewmill.pipelines.views import ViewSpec, preset


def resolve_views(config: RunConfig) -> ViewSpec:
    """The views of the run: the recipe's preset, else the method's own.

    Raises:
        ConfigError: there is no such preset.
    """
    try:
        return preset(config.views.preset or METHODS[config.method.name].views)
    except ValueError as error:
        raise ConfigError(f"views.preset: {error}") from None


def check_batch(config: RunConfig, num_samples: int, world_size: int) -> None:
    """Raises ConfigError where batch, accumulation, ranks and data set do not fit each other."""
    batch, accumulation, name = config.batch_size, config.accumulation, config.method.name
    if accumulation > 1 and not METHODS[name].decomposes:
        raise ConfigError(
            f"accumulation={accumulation}: the loss of {name} is over the whole batch and does not split "
            "into micro-batches; set accumulation=1 and spread the batch over more ranks"
        )
    parts = world_size * accumulation
    if batch % parts:
        below, above = batch - batch % parts, batch - batch % parts + parts
        nearest = f"{below} or {above}" if below else f"{above}"
        raise ConfigError(
            f"batch_size={batch} is not a multiple of {world_size} ranks x accumulation {accumulation}; "
            f"set batch_size={nearest}, or start another number of ranks"
        )
    if num_samples < batch:
        raise ConfigError(
            f"batch_size={batch} is larger than the data set's {num_samples} samples; "
            f"set batch_size to at most {num_samples}, or convert more images"
        )
