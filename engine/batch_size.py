"""Whether the ranks can share a global batch."""

from viewmill.engine.strict import ConfigError


def check_batch_size(batch_size: int, accumulation: int, world_size: int) -> None:
    """Raises ConfigError where a batch has no equal parts for all micro-batches of all ranks."""
    parts = world_size * accumulation
    if batch_size % parts == 0:
        return
    below, above = batch_size - batch_size % parts, batch_size - batch_size % parts + parts
    nearest = f"{below} or {above}" if below else f"{above}"
    raise ConfigError(
        f"batch_size={batch_size} is not a multiple of {world_size} ranks x accumulation {accumulation}; "
        f"set batch_size={nearest}, another accumulation, or start another number of ranks"
    )
