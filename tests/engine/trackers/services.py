"""Libraries that look like wandb and mlflow to Viewmill and write down what they are told."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest


class FakeWandb:
    """wandb.init and its run."""

    def __init__(self) -> None:
        self.inits: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []

    def init(self, **options: Any) -> "FakeWandb":
        self.inits.append(options)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.calls.append(("define_metric", name, step_metric))

    def log(self, figures: dict[str, float]) -> None:
        self.calls.append(("log", figures))

    def mark_preempting(self) -> None:
        self.calls.append(("mark_preempting",))

    def finish(self, exit_code: int) -> None:
        self.calls.append(("finish", exit_code))


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake, module = FakeWandb(), ModuleType("wandb")
    module.init, module.Settings = fake.init, dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return fake


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class FakeMlflow:
    """A server of MLflow, and the client of it."""

    def __init__(self) -> None:
        self.uris: list[str | None] = []
        self.experiments: dict[str, str] = {}
        self.names: list[str] = []
        self.params: list[Param] = []
        self.metrics: list[Metric] = []
        self.statuses: list[tuple[str, str]] = []

    def client(self, tracking_uri: str | None) -> "FakeMlflow":
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        found = self.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = f"experiment {len(self.experiments)}"
        return self.experiments[name]

    def create_run(self, experiment_id: str, run_name: str) -> SimpleNamespace:
        assert experiment_id in self.experiments.values()
        self.names.append(run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.names)}"))

    def update_run(self, run_id: str, status: str) -> None:
        self.statuses.append((run_id, status))

    def set_terminated(self, run_id: str, status: str) -> None:
        self.statuses.append((run_id, status))

    def log_batch(
        self, run_id: str, metrics: list[Metric] | None = None, params: list[Param] | None = None
    ) -> None:
        assert len(params or []) <= 100
        self.metrics += metrics or []
        self.params += params or []


def fake_mlflow(monkeypatch: pytest.MonkeyPatch) -> FakeMlflow:
    fake, module, entities = FakeMlflow(), ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = fake.client  # type: ignore[attr-defined]
    entities.Metric, entities.Param = Metric, Param  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return fake
