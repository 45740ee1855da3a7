"""Training: from a recipe and a data set to a run folder. The loop itself is in trainer.py."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.backbones import build_backbone, check_image_sizes
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.checks import check_accumulation, check_batch, check_labels, resolve_views
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.evaluation.in_training import InTraining
from viewmill.engine.faults.pulse import Pulse
from viewmill.engine.faults.record import untold
from viewmill.engine.faults.watch import FaultWatch
from viewmill.engine.full_pass import FullPass
from viewmill.engine.hardware import capability_of, old_gpu_notice
from viewmill.engine.ledger import Ledger
from viewmill.engine.loading import loader_options
from viewmill.engine.model import Student, build_student
from viewmill.engine.passes.reading import Reading
from viewmill.engine.preemption import SignalWatch
from viewmill.engine.progress import TrainingProgress
from viewmill.engine.run_checkpoints import RunCheckpoints
from viewmill.engine.run_folder import (
    refuse_missing_folder,
    refuse_other_run,
    refuse_used_folder,
    was_never_saved,
    write_run_files,
)
from viewmill.engine.samples import order_of_run
from viewmill.engine.spans import Spans, unmeasured
from viewmill.engine.stale_statistics import stale_notice
from viewmill.engine.start_weights import load_start_weights
from viewmill.engine.step_traces import StepTraces, check_traced_steps
from viewmill.engine.teacher import build_teacher
from viewmill.engine.telemetry import RunLog
from viewmill.engine.trackers.start import check_trackers, start_trackers
from viewmill.engine.trainer import STATE_KEYS, Trainer, last_step
from viewmill.engine.world import World
from viewmill.engine.zero import initialize
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


def train(
    config: RunConfig,
    dataset_path: Path | str,
    run_dir: Path | str,
    *,
    on: Path | str | None = None,
    resume: bool = False,
    may_begin: bool = False,
    world: World,
    watch: Callable[[Trainer, list[Batch]], None] | None = None,
    spans: Spans = unmeasured,
) -> None:
    """Trains to the end of `config`, on all ranks at once, and exports the backbone.

    The run folder holds config.yaml, environment.json, metrics.jsonl, events.jsonl, tensorboard/,
    checkpoints/ and at the end export/. With `resume` the newest checkpoint that verifies is continued: on
    the same world size and ZeRO stage bit for bit as if never interrupted.

    Args:
        on: a labelled data set by which the backbone is judged, see `EvaluationConfig`; its bank is the data
            set that is trained on, which then needs labels too.
        may_begin: with `resume`: a run that has no checkpoint yet begins, as a job that is restarted by
            itself needs it, whose commands are all the same. A damaged checkpoint is an error as ever.
        watch: called after each step, when it is logged, with this rank's batches of it; what it takes is no
            part of a step's time.
        spans: is told of the parts of each step.

    Raises:
        ImportError: a tracker's library is not installed; names the extra.
        ConfigError: settings, batch, ranks and data set do not fit, the folder is in use, or the resumed run
            is another one. What needs no file is refused before any collective.
        Requeue: SIGTERM, SIGUSR1 or SIGINT came; everything is saved (exit code 85).
        NonFiniteError, ShardError, CheckpointError, RankError: as they say.
    """
    run_dir, pulse = Path(run_dir), Pulse()
    with contextlib.ExitStack() as stack:
        dataset = stack.enter_context(Dataset.open(dataset_path))
        order, spec = check_run(config, dataset, world)
        evaluation = None
        if on is not None:
            judges = stack.enter_context(Dataset.open(on))
            evaluation = prepare_evaluation(config, dataset, judges, spec, world, pulse)
        student = prepare_student(config, spec, world)
        loader = stack.enter_context(open_loader(config, dataset, order, spec, world))
        end = last_step(config, loader.steps_per_epoch)
        check_traced_steps(config.profile.steps, end)
        signals = stack.enter_context(SignalWatch())
        from_rank_zero(world, lambda: check_trackers(config))
        start = from_rank_zero(world, lambda: find_start(run_dir, config, resume, may_begin))
        stack.enter_context(FaultWatch(run_dir, world, config.faults, pulse))
        past = take_start(start, config, student, loader, world)
        teacher = build_teacher(student, config)
        engine = initialize(student, config, world)
        from_rank_zero(world, lambda: write_run_files(run_dir, config, world))
        step = past.step if past else 0
        log = stack.enter_context(open_log(run_dir, config, world, step))
        is_shown, counts = world.rank == 0, watch is None  # who watches a run shows how far it is
        progress = stack.enter_context(TrainingProgress(end, step, is_shown=is_shown, counts=counts))
        trainer = Trainer(
            config,
            world,
            run_dir,
            spec,
            loader,
            engine,
            teacher,
            FullPass(dataset, order, config, spec, world, run_dir / "passes", pulse.beat),
            log,
            progress,
            signals,
            Ledger(order.num_samples, config.batch_size),
            RunCheckpoints(
                run_dir / "checkpoints", config.checkpoint, loader.steps_per_epoch, engine, world, log
            ),
            stack.enter_context(StepTraces(config.profile.steps, run_dir / "profile", world, log)),
            evaluation,
            watch=watch,
            spans=spans,
            pulse=pulse,
        )
        tell_news(trainer, step)
        if past is None:
            log.event("start", 0, **trainer.setting())
        else:
            trainer.restore(past, passed_over=start[1] if start else [])
        trainer.run()
        trainer.finish()


def check_run(config: RunConfig, dataset: Dataset, world: World) -> tuple[Order, ViewSpec]:
    """The order of the samples and the views, once settings, data set and ranks are known to fit.

    Raises:
        ConfigError: they do not.
    """
    order = order_of_run(config, dataset)
    check_batch(config, order.num_samples, world.world_size)
    check_labels(config, dataset, order)
    return order, resolve_views(config)


def find_start(
    run_dir: Path, config: RunConfig, resume: bool, may_begin: bool = False
) -> tuple[str, list[str]] | None:
    """The checkpoint to continue, verified, and why newer ones were passed over; None: a new run.

    Raises:
        ConfigError: the folder is in use, or holds no run or another one.
        CheckpointError: no checkpoint verifies.
    """
    if not resume:
        refuse_used_folder(run_dir)
        return None
    if may_begin and was_never_saved(run_dir):
        return None
    refuse_missing_folder(run_dir)
    path, passed_over = checkpoint.newest(run_dir / "checkpoints")
    past = checkpoint.Checkpoint.open(path, verify=False)
    lacking = [key for key in STATE_KEYS if key not in past.state]
    if lacking:
        raise checkpoint.CheckpointError(
            f"{path}: its state lacks {', '.join(lacking)}; resume with the Viewmill that wrote it"
        )
    refuse_other_run(past.state["config"], config, where=str(path))
    return str(path), passed_over


def take_start(
    start: tuple[str, list[str]] | None, config: RunConfig, student: Student, loader: Loader, world: World
) -> checkpoint.Checkpoint | None:
    """The checkpoint that `find_start` found, to whose place the loader goes; None: with a new run's weights.

    Before anything is written, for it may refuse.

    Raises:
        ConfigError: the checkpoint's run had other micro-batches, or its loader another data set or order.
    """
    if start is None:
        load_start_weights(student, config.model.weights, world)
        return None
    past = checkpoint.Checkpoint.open(Path(start[0]), verify=False)
    check_accumulation(past.state["config"]["accumulation"], config, student)
    loader.load_state_dict(past.state["loader"])
    return past


def open_log(run_dir: Path, config: RunConfig, world: World, step: int) -> RunLog:
    """The run's log from `step` on; the trackers begin."""
    is_first, prometheus = world.rank == 0, config.log.prometheus
    return RunLog(
        run_dir,
        is_writer=is_first,
        tensorboard=config.log.tensorboard,
        prometheus=None if prometheus is None else Path(prometheus),
        resume_step=step,
        trackers=start_trackers(config, run_dir) if is_first else (),
    )


def tell_news(trainer: Trainer, step: int) -> None:
    """Faults of earlier starts, and what may surprise later: an older GPU, statistics that are too old."""
    config = trainer.config
    for fault in untold(trainer.run_dir) if trainer.world.rank == 0 else []:
        trainer.log.fault(fault)
    found = (
        old_gpu_notice(capability_of(trainer.world.device), config.precision),
        stale_notice(config, trainer.steps_per_epoch),
    )
    for notice in filter(None, found):
        trainer.log.event("notice", step, message=notice)
        trainer.progress.tell(notice)


def prepare_student(config: RunConfig, spec: ViewSpec, world: World) -> Student:
    """The module to train: seeded alike on every rank, BatchNorm over all ranks, on the rank's device."""
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    student = build_student(config.model, config.method, image_size=spec.sizes[0], seed=config.seed)
    check_image_sizes(student.backbone, spec.sizes)
    return cast(Student, convert_batchnorm(student, world.device)).to(world.device)


def prepare_evaluation(
    config: RunConfig, dataset: Dataset, on: Dataset, spec: ViewSpec, world: World, pulse: Pulse
) -> InTraining:
    """What judges the backbone between epochs, by the eval view at the size of the largest views.

    Raises:
        ConfigError: no such task, or the data sets do not fit it.
    """
    model, views = config.model, config.views
    size = spec.sizes[0]
    batch_size = config.batch_size // world.world_size
    reading = Reading(world, views.executor, views.num_threads, batch_size, beat=pulse.beat)
    build = partial(build_backbone, model.backbone, stem=model.stem, image_size=size)
    try:
        return InTraining(
            build, config.evaluation.tasks, dataset, on, evaluation_views(size, spec.mean, spec.std), reading
        )
    except ValueError as error:
        raise ConfigError(f"evaluation: {error}") from error


def open_loader(config: RunConfig, dataset: Dataset, order: Order, spec: ViewSpec, world: World) -> Loader:
    """This rank's share of every global batch."""
    return Loader(dataset, spec, config.batch_size, **loader_options(config, world, order))
