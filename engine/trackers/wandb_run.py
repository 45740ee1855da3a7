"""A run at Weights & Biases: the only file that imports wandb."""

import uuid
from pathlib import Path
from typing import Any

from viewmill.engine.trackers.service import Outcome
from viewmill.engine.trackers.settings import WandbConfig


class WandbRun:
    """See `Service`. Lines that a resumed run trains again are drawn once more at the same step.

    Args:
        folder: where wandb keeps its own files.
    """

    def __init__(self, config: WandbConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._run: Any = None

    def begin(self, run_id: str | None, name: str, settings: dict[str, Any]) -> str:
        import wandb

        run_id = run_id or uuid.uuid4().hex[:16]
        self._folder.mkdir(exist_ok=True)
        self._run = wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=self._config.name or name,
            id=run_id,
            resume="allow",
            dir=str(self._folder),
            config=settings,
            # The terminal is training's: its lines are not taken, and no question waits there for long.
            settings=wandb.Settings(console="off", login_timeout=30),
        )
        # W&B's own counter only rises, and would drop what a resumed run trains again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return run_id

    def metrics(self, figures: dict[str, float]) -> None:
        self._run.log(figures)

    def end(self, outcome: Outcome) -> None:
        if outcome == "stopped":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
