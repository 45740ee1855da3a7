"""The checkpoints of a run that goes on meanwhile: when one is due, which stay, what waiting has cost."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.checkpoints.behind import HostCopies
from viewmill.engine.checkpoints.retention import Retention
from viewmill.engine.config import CheckpointConfig
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine


class RunCheckpoints:
    """Begins a checkpoint, lets training go on, and ends it when all ranks have written theirs.

    Every rank calls every method at the same step.

    Args:
        folder: of the checkpoints.
        log: is told of each checkpoint, with `stalled_s`, the seconds that training waited for it.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        steps_per_epoch: int,
        engine: ZeroEngine,
        world: World,
        log: RunLog,
    ) -> None:
        self._folder, self._config, self._steps_per_epoch = folder, config, steps_per_epoch
        self._engine, self._world, self._log = engine, world, log
        self._copies = HostCopies()
        self._saving: checkpoint.Saving | None = None
        self._stalled_s = 0.0  # what beginning it has taken

    def is_due(self, step: int) -> bool:
        """Whether the settings ask for one after this step."""
        by_epochs = self._in_steps(self._config.every_epochs)
        return any(every is not None and step % every == 0 for every in (self._config.every_steps, by_epochs))

    @property
    def is_begun(self) -> bool:
        """Whether one is on its way; the same on every rank."""
        return self._saving is not None

    @property
    def is_unwritten(self) -> bool:
        """Whether this rank has not done its part of one that has begun."""
        return self._saving is not None and not self._saving.is_written

    def begin(
        self, step: int, state: dict[str, Any], buffers: dict[str, Tensor], *, best: int | None, wait: bool
    ) -> None:
        """Writes a checkpoint of this step, or begins to.

        Args:
            state, buffers: as `checkpoint.save`'s.
            best: the step of the best one so far, which stays.
            wait: until it is there.

        Raises:
            CheckpointError, RankError: as `checkpoint.save`, of this one or the one before.
        """
        self.end()
        began_s = time.monotonic()
        wait = wait or not self._config.background
        self._saving = checkpoint.begin(
            self._folder,
            step,
            self._engine,
            self._world,
            state,
            buffers,
            retention=self._retention(best),
            copies=None if wait else self._copies,
        )
        self._stalled_s = time.monotonic() - began_s
        if wait:
            self.end()

    def end(self) -> None:
        """Waits for the one that has begun, if there is one, and gives it its name."""
        if self._saving is None:
            return
        saving, began_s, self._saving = self._saving, time.monotonic(), None
        saving.finish()
        stalled_s = self._stalled_s + time.monotonic() - began_s
        self._log.event("checkpoint", saving.step, stalled_s=round(stalled_s, 3))

    def _retention(self, best: int | None) -> Retention:
        by_epochs = self._in_steps(self._config.keep_every_epochs)
        every = tuple(filter(None, (by_epochs, self._config.keep_every_steps)))
        return Retention(self._config.keep, every, best)

    def _in_steps(self, epochs: int | None) -> int | None:
        return None if epochs is None else epochs * self._steps_per_epoch
