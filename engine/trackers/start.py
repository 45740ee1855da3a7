"""The trackers that a run's settings ask for."""

import importlib
from pathlib import Path

from viewmill.engine.config import RunConfig
from viewmill.engine.trackers.mlflow_run import MlflowRun
from viewmill.engine.trackers.tracker import Tracker
from viewmill.engine.trackers.wandb_run import WandbRun


def check_trackers(config: RunConfig) -> None:
    """Imports what the trackers need, on the rank that has them.

    Raises:
        ImportError: a library is not installed; names the extra.
    """
    for name in ("wandb", "mlflow"):
        if getattr(config.log, name) is None:
            continue
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"log.{name} needs the library {name} ({error}); install it: pip install 'viewmill[{name}]', "
                f"or leave log.{name} out"
            ) from error


def start_trackers(config: RunConfig, run_dir: Path) -> list[Tracker]:
    """Begins to tell the services; ids, and W&B's own files, lie in RUN/trackers/. For one rank of a run."""
    folder = run_dir / "trackers"
    settings = config.model_dump(mode="json")
    trackers: list[Tracker] = []
    wandb, mlflow = config.log.wandb, config.log.mlflow
    if wandb is not None:
        place, file = wandb.model_dump(exclude={"name"}), folder / "wandb.json"
        trackers.append(Tracker("wandb", WandbRun(wandb, folder), place, file, run_dir.name, settings))
    if mlflow is not None:
        place, file = mlflow.model_dump(exclude={"name"}), folder / "mlflow.json"
        trackers.append(Tracker("mlflow", MlflowRun(mlflow), place, file, run_dir.name, settings))
    return trackers
