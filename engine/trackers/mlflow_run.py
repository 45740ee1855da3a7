"""A run at MLflow: the only file that imports mlflow."""

import re
import time
from typing import Any

from viewmill.engine.trackers.service import Outcome
from viewmill.engine.trackers.settings import MlflowConfig

STATUS: dict[Outcome, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_PARAMS = 100  # in one call
LONGEST_PARAM = 500  # characters: what the oldest servers take


class MlflowRun:
    """See `Service`. Lines that a resumed run trains again stand twice in a metric's history.

    MLflow never changes a run's parameters: they are those of the first session.
    """

    def __init__(self, config: MlflowConfig) -> None:
        self._config = config
        self._client: Any = None
        self._id = ""

    def begin(self, run_id: str | None, name: str, settings: dict[str, Any]) -> str:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=self._config.tracking_uri)
        if run_id is not None:
            self._client.update_run(run_id, status="RUNNING")
            self._id = run_id
            return run_id
        run = self._client.create_run(self._experiment(), run_name=self._config.name or name)
        self._id = run.info.run_id
        self._send_params(settings)
        return self._id

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._config.experiment)
        if found is None:
            return self._client.create_experiment(self._config.experiment)
        return found.experiment_id

    def _send_params(self, settings: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in flat(settings).items()]
        for start in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(self._id, params=params[start : start + MOST_PARAMS])

    def metrics(self, figures: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms, step = round(1000 * time.time()), int(figures["step"])
        told = [
            Metric(allowed(name), value, now_ms, step) for name, value in figures.items() if name != "step"
        ]
        self._client.log_batch(self._id, metrics=told)

    def end(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, status=STATUS[outcome])


def allowed(name: str) -> str:
    """MLflow takes letters, digits, and _ - . space / in a name: knn@20 becomes knn_20."""
    return re.sub(r"[^\w\-. /]", "_", name, flags=re.ASCII)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"optimizer": {"lr": 1}} as {"optimizer.lr": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
