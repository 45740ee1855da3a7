"""The training loop: `Trainer.run`."""

import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from viewmill.engine.agreement import from_rank_zero, gather_json
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.clock import StepClock
from viewmill.engine.config import RunConfig
from viewmill.engine.evaluation.in_training import Best, InTraining, better
from viewmill.engine.export import TEACHER_PREFIX, export_newest, exports_teacher
from viewmill.engine.faults.pulse import Phase, Pulse
from viewmill.engine.feed import Feed
from viewmill.engine.full_pass import DonePass, FullPass
from viewmill.engine.ledger import Ledger
from viewmill.engine.metrics_line import MetricsLines
from viewmill.engine.nonfinite import BufferGuard, NonFiniteError, SkipCount, are_finite, first_place
from viewmill.engine.preemption import Requeue, SignalWatch, write_requeue
from viewmill.engine.progress import TrainingProgress
from viewmill.engine.refresh import replace_in_head
from viewmill.engine.run_checkpoints import RunCheckpoints
from viewmill.engine.schedules import method_values, rates
from viewmill.engine.spans import Part, Spans, unmeasured
from viewmill.engine.step import Step, train_step
from viewmill.engine.step_traces import StepTraces
from viewmill.engine.stragglers import write_stragglers
from viewmill.engine.teacher import Teacher
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.method import Values
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.views import ViewSpec


def last_step(config: RunConfig, steps_per_epoch: int) -> int:
    """Steps after which the run ends."""
    schedule_end = config.epochs * steps_per_epoch
    return min(schedule_end, config.max_steps or schedule_end)


# What the trainer hands to a checkpoint, beside weights, optimiser state and buffers.
STATE_KEYS = ("config", "loader", "trained_s", "skipped", "substituted", "best", "loss_scale")


@dataclass
class Trainer:
    """The parts of a training on this rank, and where it stands."""

    config: RunConfig
    world: World
    run_dir: Path
    spec: ViewSpec
    loader: Loader
    engine: ZeroEngine
    teacher: Teacher | None
    full_pass: FullPass
    log: RunLog
    progress: TrainingProgress
    signals: SignalWatch
    ledger: Ledger
    checkpoints: RunCheckpoints
    traces: StepTraces
    evaluation: InTraining | None = None
    watch: Callable[["Trainer", list[Batch]], None] | None = None
    spans: Spans = unmeasured
    step: int = 0  # optimiser steps done, skipped ones included
    trained_s: float = 0.0  # wall time of the sessions before this one
    skips: SkipCount = field(default_factory=SkipCount)
    best: Best | None = None
    began_s: float = field(default_factory=time.monotonic)
    clock: StepClock = field(default_factory=lambda: StepClock(0.0))
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def steps_per_epoch(self) -> int:
        return self.loader.steps_per_epoch

    @property
    def last_step(self) -> int:
        return last_step(self.config, self.steps_per_epoch)

    def run(self) -> None:
        """Trains up to the last step.

        Raises:
            Requeue: a signal came; the step was finished and saved.
            NonFiniteError: too many skipped steps in a row; the last checkpoint is from before.
        """
        self.clock = StepClock(self.loader.wait_s)
        guard, lines, steps = BufferGuard(*self.modules()), self.metrics_lines(), self.feed().steps(self.step)
        self.engine.module.train()
        while self.step < self.last_step:
            self.traces.begin(self.step + 1)
            batches, stop = next(steps)
            values = method_values(self.step, self.config, self.steps_per_epoch)
            if self.step % self.steps_per_epoch == 0:
                self.begin_epoch(values)
                guard.settle(applied=True)
            self.pulse.enter(Phase.COMPUTE, self.step)
            self.engine.set_rates(rates(self.step, self.config, self.steps_per_epoch))
            with self.spans(Part.COPY):
                micro_batches = [[view.to(self.world.device) for view in batch.views] for batch in batches]
            step = train_step(
                self.engine,
                self.teacher,
                micro_batches,
                values,
                labels=torch.cat([batch.labels for batch in batches]),
                loss_in_float32=self.config.loss_precision == "float32",
                spans=self.spans,
            )
            self.step += 1
            guard.settle(step.applied)
            self.clock.count(self.config.batch_size)
            self.note(step, batches)
            if lines.is_due(self.step):
                waited_s = self.loader.wait_s
                with self.spans(Part.LOGGING):
                    lines.write(
                        self.step, step, values, self.clock, data_wait_s=waited_s, time_s=self.time_s()
                    )
            if self.watch is not None:
                with self.clock.aside():
                    self.watch(self, batches)
            epoch = batches[0].epoch
            del step, batches, micro_batches  # views, embeddings and targets make way for the next ones
            if self.step % self.steps_per_epoch == 0:
                self.log.event("epoch", self.step, **self.ledger.close(epoch))
            self.progress.advance()
            if self.evaluates_now() and not stop:
                self.evaluate()
            if stop or self.saves_now():
                with self.spans(Part.CHECKPOINT):
                    self.save(wait=bool(stop) or self.step == self.last_step)
            self.traces.end(self.step, is_last=bool(stop) or self.step == self.last_step)
            if stop:
                raise self.requeue(stop)

    def feed(self) -> Feed:
        """Where this rank's batches come from, and it hears of the others."""
        accumulation, clock = self.config.accumulation, self.clock
        return Feed(
            self.world,
            self.loader,
            accumulation,
            self.signals,
            self.checkpoints,
            self.ledger,
            self.log,
            self.pulse,
            clock,
            self.spans,
        )

    def metrics_lines(self) -> MetricsLines:
        return MetricsLines(
            self.config, self.world, self.engine, self.steps_per_epoch, self.log, self.progress
        )

    def modules(self) -> list[nn.Module]:
        """Those whose buffers a forward changes."""
        return [self.engine.module] if self.teacher is None else [self.engine.module, self.teacher]

    def begin_epoch(self, values: Values) -> None:
        """What a method and its teacher do between epochs; the step at hand is the first of its epoch."""
        student, epoch = self.engine.module, self.step // self.steps_per_epoch
        student.method.before_epoch(epoch)
        if self.teacher is None:
            return
        self.pulse.enter(Phase.PASS, self.step)
        self.teacher.before_epoch(student, epoch)
        # A pass is long: killed in it, a run goes on from the checkpoint before it.
        done = self.full_pass.before_epoch(student.method, self.teacher, epoch, values, self.checkpoints.end)
        if done is not None:
            replace_in_head(self.engine, self.teacher, done.outcome.head)
            self.note_pass(done)

    def note_pass(self, done: DonePass) -> None:
        report = done.report
        self.log.event(
            "full_pass",
            self.step,
            counted=report.counted,
            left_out={str(sample): reason for sample, reason in report.left_out.items()},
            seconds=round(report.seconds, 3),
            resumed_at=report.resumed_at,
            **done.outcome.figures,
        )

    def teacher_state(self, is_kept: bool = True) -> dict[str, Tensor]:
        """The teacher's whole tensors under the names that a checkpoint gives them; see `Teacher.saved`."""
        own = {} if self.teacher is None else self.teacher.saved(is_kept)
        return {f"{TEACHER_PREFIX}{name}": tensor for name, tensor in own.items()}

    def note(self, step: Step, batches: list[Batch]) -> None:
        """Counts a skipped step. Where samples may be at fault, event and error name them, of all ranks, and
        say where the first number that is none was seen.
        """
        if step.applied:
            self.skips.good()
            return
        scale = self.engine.loss_scale
        if step.overflowed and scale is not None:
            self.skips.overflows += 1
            self.log.event("overflow", self.step, loss_scale=scale.value)
            return
        mine = [sample for batch in batches for sample in batch.ids.tolist()]
        views = [view for batch in batches for view in batch.views]
        told = gather_json(self.world, [mine, are_finite(views), are_finite([step.embeddings])])
        ids = [sample for ids, _, _ in told for sample in ids]
        where = first_place([(views, embeddings) for _, views, embeddings in told])
        reason = "loss or gradient is not finite"
        self.log.event("skipped_step", self.step, reason=reason, where=where, ids=ids)
        try:
            self.skips.skipped(self.step, ids, self.config.nonfinite_limit, where)
        except NonFiniteError:
            self.checkpoints.end()  # the run ends here; what is on its way to disk is good
            raise

    def time_s(self) -> float:
        """Wall time trained so far, over all sessions."""
        return self.trained_s + time.monotonic() - self.began_s

    def saves_now(self) -> bool:
        return self.checkpoints.is_due(self.step) or self.evaluates_now() or self.step == self.last_step

    def evaluates_now(self) -> bool:
        """After every so many epochs, and at the end."""
        epochs, rest = divmod(self.step, self.steps_per_epoch)
        due = rest == 0 and epochs % self.config.evaluation.every_epochs == 0
        return self.evaluation is not None and (due or self.step == self.last_step)

    def evaluate(self) -> None:
        """Judges the backbone that is exported, and remembers the best step; the loader goes on meanwhile."""
        assert self.evaluation is not None
        began_s = time.monotonic()
        judged: Any = self.teacher if exports_teacher(self.config.method) else self.engine.module
        self.pulse.enter(Phase.EVALUATION, self.step)
        with self.clock.aside():
            found = self.evaluation.measure(judged.backbone)
        self.best = better(self.best, self.step, found)
        seconds = round(time.monotonic() - began_s, 3)
        self.log.evaluation(self.step, found, seconds=seconds, best=self.best.step)

    def save(self, wait: bool) -> None:
        """Writes a checkpoint of everything that a resumed run needs, or begins to, and training goes on."""
        self.pulse.enter(Phase.CHECKPOINT, self.step)
        state = {
            "config": self.config.model_dump(mode="json"),
            "loader": self.loader.state_dict(),
            "trained_s": self.time_s(),
            "skipped": asdict(self.skips),
            "substituted": self.ledger.state(),
            "best": None if self.best is None else asdict(self.best),
            "loss_scale": self.engine.loss_scale and self.engine.loss_scale.state(),
        }
        self.checkpoints.begin(
            self.step,
            state,
            {**dict(self.engine.module.named_buffers()), **self.teacher_state(self.world.rank == 0)},
            best=None if self.best is None else self.best.step,
            wait=wait,
        )

    def restore(self, past: checkpoint.Checkpoint, passed_over: list[str]) -> None:
        """Takes weights, optimiser state and counts from a checkpoint; the loader is there already."""
        teacher_state = self.teacher_state()
        checkpoint.restore(self.engine, past, teacher_state)
        if self.teacher is not None:
            self.teacher.load({name.removeprefix(TEACHER_PREFIX): x for name, x in teacher_state.items()})
        self.step, self.trained_s = past.step, past.state["trained_s"]
        self.skips = SkipCount(**past.state["skipped"])
        self.ledger.load(past.state["substituted"])
        self.best = past.state["best"] and Best(**past.state["best"])
        if self.engine.loss_scale is not None:
            self.engine.loss_scale.load(past.state["loss_scale"])
        for reason in passed_over:
            self.log.event("checkpoint_passed_over", self.step, reason=reason)
        was = {"world_size": past.world_size, "zero_stage": past.stage}
        self.log.event("resume", self.step, was=was, **self.setting())

    def setting(self) -> dict[str, Any]:
        """What may differ from one session of a run to the next, and what its batches are made of."""
        return {
            "world_size": self.world.world_size,
            "zero_stage": self.config.zero.stage,
            "accumulation": self.config.accumulation,
            "device": self.world.device.type,
            "executor": self.loader.executor,
            "data": self.loader.state_dict(),
        }

    def requeue(self, number: int) -> Requeue:
        name = signal.Signals(number).name
        self.log.event("requeue", self.step, signal=name)
        if self.world.rank == 0:
            write_stragglers(self.run_dir)
            write_requeue(self.run_dir, name, self.step)
        return Requeue(name, self.step, self.run_dir)

    def finish(self) -> None:
        """Exports the backbone from the last checkpoint, whose weights are whole and float32."""
        from_rank_zero(self.world, lambda: export_newest(self.run_dir, self.config, self.spec))
        from_rank_zero(self.world, lambda: write_stragglers(self.run_dir))
        overflows = {} if self.engine.loss_scale is None else {"overflows": self.skips.overflows}
        self.log.event("end", self.step, skipped=self.skips.total, **overflows)
