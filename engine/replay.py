"""Replay: the batch that a rank was given at a step, made again from the run's folder and its data set."""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import ConfigError, RunConfig, load_config
from viewmill.engine.loading import loader_options
from viewmill.engine.samples import order_of_run
from viewmill.engine.telemetry import read_lines
from viewmill.engine.world import World
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


class Session(BaseModel):
    """A stretch of a run under one setting: its `start` or `resume` event."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    event: Literal["start", "resume"]
    step: int = Field(ge=0)  # steps done when it began
    world_size: int = Field(ge=1)
    accumulation: int = Field(default=1, ge=1)  # early runs do not tell: they had none
    executor: str
    device: str
    data: dict[str, Any]  # the loader's state when it began


class Made(BaseModel):
    """A substitution, as the `substitutes` event lists it."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    epoch: int
    position: int
    id: int
    substitute: int
    reason: str


@dataclass(frozen=True)
class Replayed:
    """One rank's batch of one step, and under which setting it was trained and made again.

    is_exact: by the executor and the kind of device that the run used, so its views are the same bits.
    """

    batches: list[Batch]  # the micro-batches of the step
    substitutions: dict[int, list[Made]]  # by position in the epoch's order, all candidates that were tried
    first_positions: list[int]  # of each micro-batch in the epoch's order
    spec: ViewSpec
    session: Session
    executor: str
    device: str

    @property
    def is_exact(self) -> bool:
        return (self.executor, self.device) == (self.session.executor, self.session.device)


def replay(run_dir: Path, dataset: Dataset, step: int, rank: int, *, executor: str | None = None) -> Replayed:
    """Makes the batch of a step again; ids, keys, crops and colours are those of the run on any executor.

    A sample that was replaced in the run is replaced by the same one, also where it can be read now.

    Args:
        step: as metrics.jsonl and events.jsonl number them, from 1.
        rank: of the session that trained the step; a resumed run may have had other ranks before.
        executor: another than the run's. The run's device is used where this machine has one of its kind.

    Raises:
        FileNotFoundError: no run's folder.
        ConfigError: the run has no such step or rank, its files do not tell, or the data set is another one.
        ValueError: an unknown executor, or versions of order or plan that differ from the run's.
        RuntimeError: a sample that the run used cannot be read any more.
    """
    config = _config_of(run_dir)
    session, made = session_of(run_dir, step)
    config = config.model_copy(update={"accumulation": session.accumulation})
    if not 0 <= rank < session.world_size:
        raise ConfigError(
            f"{run_dir}: step {step} was trained by {session.world_size} ranks, so --rank lies in "
            f"[0, {session.world_size}), got {rank}"
        )
    _refuse_other_data(run_dir, session, dataset)
    device = session.device if session.device == "cpu" or torch.cuda.is_available() else "cpu"
    world = World(rank, session.world_size, 0, torch.device(device))
    options = loader_options(config, world, order_of_run(config, dataset)) | {
        "executor": executor or session.executor,
        "prefetch": 1,
        "max_substitutes": 0,  # what the run replaced is known; what fails beside it is an error
        "replacing": {(one.epoch, one.position): one.substitute for one in made},  # the last candidate
    }
    spec = resolve_views(config)
    with Loader(dataset, spec, config.batch_size, **options) as loader:
        epoch, step_of_epoch = divmod(step - 1, loader.steps_per_epoch)
        if epoch >= config.epochs:
            last = config.epochs * loader.steps_per_epoch
            raise ConfigError(f"{run_dir}: step {step} is behind the run's end; its last one is {last}")
        first = step_of_epoch * config.batch_size
        loader.load_state_dict({**session.data, "epoch": epoch, "position": first})
        batches = list(islice(iter(loader), config.accumulation))
        used = loader.executor
    size = len(batches[0].ids)
    starts = [first + (micro * session.world_size + rank) * size for micro in range(len(batches))]
    mine = {position for start in starts for position in range(start, start + size)}
    tried: dict[int, list[Made]] = {}
    for one in made:
        if one.epoch == epoch and one.position in mine:
            tried.setdefault(one.position, []).append(one)
    return Replayed(batches, tried, starts, spec, session, used, device)


def session_of(run_dir: Path, step: int) -> tuple[Session, list[Made]]:
    """The session that trained a step (the last that did) and the samples that were replaced in it.

    Raises:
        ConfigError: a step below 1, or events.jsonl does not tell.
    """
    if step < 1:
        raise ConfigError(f"steps are counted from 1, got {step}")
    path = run_dir / "events.jsonl"
    found: Session | None = None
    made: list[Made] = []
    trains_it = False  # the session that the event belongs to
    try:
        for event in read_lines(path):
            if event["event"] in ("start", "resume"):
                trains_it = event["step"] < step
                found, made = (Session.model_validate(event), []) if trains_it else (found, made)
            elif event["event"] == "substitutes" and trains_it:
                made += [Made.model_validate(one) for one in event["samples"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: a line cannot be used ({_short(error)})") from error
    if found is None:
        raise ConfigError(f"{path}: no session trained step {step}; is {run_dir} the folder of a run?")
    return found, made


def _config_of(run_dir: Path) -> RunConfig:
    if not (run_dir / "config.yaml").is_file():
        raise FileNotFoundError(
            f"{run_dir}: no run here (config.yaml is missing); give the folder that viewmill train wrote"
        )
    return load_config(run_dir / "config.yaml")


def _refuse_other_data(run_dir: Path, session: Session, dataset: Dataset) -> None:
    trained_on = session.data.get("data_set_hash")
    if trained_on != dataset.data_set_hash:
        raise ConfigError(
            f"{dataset.shown}: its data set hash is {dataset.data_set_hash}, but {run_dir} was trained on "
            f"{trained_on}; give the data set of the run"
        )


def _short(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return f"{type(error).__name__}: {error}"
