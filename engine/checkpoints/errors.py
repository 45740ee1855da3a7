"""What a checkpoint that cannot be says, and how every rank gets to hear it."""

from collections.abc import Callable
from typing import Any, TypeVar

from viewmill.engine.agreement import from_rank_zero, largest, raise_everywhere
from viewmill.engine.world import World

Result = TypeVar("Result")


class CheckpointError(RuntimeError):
    """A checkpoint is damaged, not there, or of another model; the message names file and reason."""


def everywhere(world: World, work: Callable[[], Result]) -> Result:
    """work() on every rank; where one fails, all raise, so that none waits for it."""
    result, error = None, None
    try:
        result = _naming_the_disk(work)
    except Exception as caught:  # raised below, here and on every rank
        error = caught
    if largest(world, [error is not None])[0]:
        raise_everywhere(world, error)
    return result  # type: ignore[return-value]  # no rank failed, so it is there


def on_first(world: World, work: Callable[[], Any]) -> Any:
    """work() on rank 0; its result, or its failure, on every rank."""
    return from_rank_zero(world, lambda: _naming_the_disk(work))


def _naming_the_disk(work: Callable[[], Result]) -> Result:
    """A full, failing or forbidden disk is a checkpoint that could not be."""
    try:
        return work()
    except OSError as error:
        raise CheckpointError(f"{error}; the earlier checkpoints are kept") from error
