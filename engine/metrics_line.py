"""A line of metrics.jsonl: what is read back from the device at a logged step, and who is told."""

from dataclasses import dataclass, field
from typing import Any

from viewmill.engine.agreement import gather_json
from viewmill.engine.clock import StepClock
from viewmill.engine.config import RunConfig
from viewmill.engine.hardware import peak_memory
from viewmill.engine.progress import TrainingProgress
from viewmill.engine.schedules import scheduled_values
from viewmill.engine.sentinels import Sentinels
from viewmill.engine.step import Step
from viewmill.engine.telemetry import RunLog
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.method import Method, Values


@dataclass
class MetricsLines:
    """Which steps have a line, and what stands in it. Every rank writes at the same steps."""

    config: RunConfig
    world: World
    engine: ZeroEngine
    steps_per_epoch: int
    log: RunLog
    progress: TrainingProgress
    sentinels: Sentinels = field(default_factory=Sentinels)

    def is_due(self, step: int) -> bool:
        # Not at max_steps: a run continued from there would have one line more than one that never stopped.
        schedule_end = self.config.epochs * self.steps_per_epoch
        return step in (1, schedule_end) or step % self.config.log.every_steps == 0

    def write(
        self, number: int, step: Step, values: Values, clock: StepClock, *, data_wait_s: float, time_s: float
    ) -> None:
        """Reads the step's numbers back from the device: the only place that waits for it.

        Args:
            number: steps that are done, this one too.
            data_wait_s: what the loader has waited so far, in all.
            time_s: wall time trained so far, over all sessions.
        """
        loss = step.result.loss.item()
        method: Method = self.engine.module.method
        found = method.diagnostics(step.embeddings, values, step.targets)
        diagnostics = {name: value.item() for name, value in found.items()}
        figures = clock.read(data_wait_s)
        figures["memory_peak_mib"] = peak_memory(self.world.device) / 2**20
        self.log.ranks(number, gather_json(self.world, figures))
        line = {
            "step": number,
            "epoch": (number - 1) // self.steps_per_epoch,
            "samples": number * self.config.batch_size,
            "time_s": time_s,
            "loss": loss,
            **{name: value.item() for name, value in step.result.metrics.items()},
            **diagnostics,
            **scheduled_values(number - 1, self.config, self.steps_per_epoch),
            **self._of_the_gradient(),
            **figures,
        }
        self.log.metrics(line)
        self.progress.figures(
            loss=loss,
            images_per_s=figures["images_per_s"],
            data_wait_fraction=figures["data_wait_fraction"],
        )
        self._judge(number, method.alarms(diagnostics, values))

    def _of_the_gradient(self) -> dict[str, Any]:
        scale = self.engine.loss_scale
        scaled = {} if scale is None else {"loss_scale": scale.value}
        return {"grad_norm": self.engine.grad_norm(), **scaled}

    def _judge(self, number: int, complaints: dict[str, str]) -> None:
        """A collapse that lasts becomes an event; during the warm-up any network looks like one."""
        if number <= self.config.schedule.warmup_epochs * self.steps_per_epoch:
            return
        for alarm in self.sentinels.judge(complaints):
            self.log.event(alarm.event, number, name=alarm.name, message=alarm.message)
