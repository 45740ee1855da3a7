"""The measurement of a run while it trains: blocks of its steps in turn with each of its stages alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from viewmill.engine.agreement import largest
from viewmill.engine.faults.pulse import Phase
from viewmill.engine.spans import Part
from viewmill.engine.trainer import Trainer
from viewmill.pipelines.loader import Batch
from viewmill.tools.bench.train_peers import settle
from viewmill.tools.doctor.arithmetic import count_flops
from viewmill.tools.doctor.collectives import Traffic
from viewmill.tools.doctor.costs import Cost
from viewmill.tools.doctor.loader_alone import LoaderAlone
from viewmill.tools.doctor.pictures import resized
from viewmill.tools.doctor.series import (
    Fed,
    Parts,
    Series,
    mean_parts,
    median_cost,
    median_fed,
    median_parts,
    median_slowdown,
)
from viewmill.tools.doctor.stopwatch import Lap, Stopwatch
from viewmill.tools.doctor.training_alone import TrainingAlone, torch_threads
from viewmill.tools.doctor.trials import AS_SET, Trial, Trials

SHOWN_STEPS = 6  # of the time line


@dataclass(frozen=True)
class Blocks:
    """How long it is measured: after one uncounted block, `rounds` of `skip + steps` steps with a checkpoint.

    The first steps of a block find batches that were made while others were measured, and the checkpoint's
    writing beside them: `skip` is enough for both to have passed, but for a long write.
    """

    rounds: int
    steps: int
    skip: int

    @property
    def length(self) -> int:
        return self.skip + self.steps

    @property
    def last_step(self) -> int:
        return (1 + self.rounds) * self.length


class Rounds:
    """Given to `train` as `watch`, with its stopwatch as `spans`.

    Args:
        loader: of the run's settings.
        tell: hears what is measured.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        traffic: Traffic,
        loader: LoaderAlone,
        blocks: Blocks,
        trials: Trials,
        tell: Callable[[str], None],
    ) -> None:
        self._stopwatch, self._traffic, self._loader = stopwatch, traffic, loader
        self._blocks, self._trials, self._tell = blocks, trials, tell
        self._laps: list[Lap] = []
        self._counted_cpu = 0.0
        self._small = {short: resized(loader.pictures, short) for short in trials.short_sides}
        self._training = TrainingAlone(stopwatch, loader)
        self._feeds = loader.renders_bytes and loader.is_on_cpu
        self.series = Series()
        self.sent: dict[str, dict[str, float]] = {}
        self.shown: list[Lap] = []
        self.loader_line = ""
        self.flops = 0  # of this rank at a step

    def __call__(self, trainer: Trainer, batches: list[Batch]) -> None:
        lap, blocks = self._stopwatch.lap(), self._blocks
        if trainer.step > blocks.last_step:
            return
        self._laps.append(lap)
        place = trainer.step % blocks.length
        if place == blocks.skip:  # what follows counts
            self._counted_cpu = time.process_time()
            self._traffic.clear()
            trainer.loader.reset_stats()
        if place == 0:
            self._end_block(trainer, batches)
        self._stopwatch.begin()

    def _end_block(self, trainer: Trainer, batches: list[Batch]) -> None:
        laps, self._laps = self._laps, []
        number = trainer.step // self._blocks.length - 1
        if number:  # the first block warms up
            self._keep_together(laps, trainer)
        trainer.pulse.enter(Phase.EVALUATION, trainer.step)  # nobody waits for this rank's step meanwhile
        settle(lambda: trainer.checkpoints.is_unwritten)
        self._tell(f"round {number} of {self._blocks.rounds}: stages alone")
        self._measure_alone(trainer, batches, counts=number > 0)
        if number == self._blocks.rounds:
            self.flops = count_flops(self._training.step_of(trainer, batches))
        self._tell(f"round {number + 1} of {self._blocks.rounds}: together")

    def _keep_together(self, laps: list[Lap], trainer: Trainer) -> None:
        series, counted = self.series, laps[self._blocks.skip :]
        series.together_cpu.append((time.process_time() - self._counted_cpu) / len(counted))
        series.together.append(mean_parts(counted))
        lines = [parts[Part.LOGGING.value] for lap in laps if Part.LOGGING.value in (parts := lap.parts())]
        series.logging += [sum(lines) / len(lines)] if lines else []
        series.checkpoint.append(sum(lap.parts().get(Part.CHECKPOINT.value, 0.0) for lap in laps))
        self.sent = {
            kind: {name: value / len(counted) for name, value in counts.items()}
            for kind, counts in self._traffic.as_dict().items()
        }
        self.shown, self.loader_line = counted[-SHOWN_STEPS:], str(trainer.loader.stats())
        stats = {stage.name: stage for stage in trainer.loader.stats().stages}
        if not self._loader.renders_bytes and stats["make"].batches:
            steps = stats["make"].batches / trainer.config.accumulation
            series.loader["make"].append(Cost(stats["make"].busy_s / steps))

    def _measure_alone(self, trainer: Trainer, batches: list[Batch], *, counts: bool) -> None:
        steps = max(2, self._blocks.steps // 2) if counts else 0
        made = self._make_alone(trainer.config.views.num_threads)
        found: list[tuple[str, Parts, float]] = [("", *self._training.train(trainer, batches, steps))]
        if not self._feeds:
            found += self._train_otherwise(trainer, batches, steps)
        if not counts:
            return
        for name, parts, cpu_s in found:
            self.series.alone[name].append(parts)
            self.series.alone_cpu[name].append(cpu_s)
        for name, cost in made.items():
            self.series.loader[name].append(cost)
        if self._feeds:
            train_s = sum(self.series.alone[""][-1].values())
            self.series.beside.append(self._training.beside(trainer, batches, steps, train_s, made["make"]))
            self._measure_fed(trainer, steps)

    def _train_otherwise(
        self, trainer: Trainer, batches: list[Batch], steps: int
    ) -> list[tuple[str, Parts, float]]:
        """The training alone by the settings that are tried and change it."""
        found = []
        if self._trials.doubles_batch:
            found.append(("double", *self._training.train(trainer, batches, steps, copies=2)))
        for number in self._trials.torch_threads:
            with torch_threads(number):
                parts, cpu_s = self._training.train(trainer, batches, steps)
            found.append((f"torch threads {number}", parts, cpu_s))
        return found

    def _measure_fed(self, trainer: Trainer, least: int) -> None:
        """Steps that wait for the views that are made meanwhile: as the run is set, by every other setting,
        and as it is set again, for a machine's speed drifts.

        Only where views are made on the host: on the training's own device both wait in the same queue.
        """
        trials = [trial for trial in self._trials.each() if self._can(trainer, trial)]
        if not trials:
            return
        small = {trial: self._small.get(trial.short_side or 0) for trial in trials}
        turns = [AS_SET, *trials, AS_SET]
        found = [self._training.fed(trainer, trial, small.get(trial), least) for trial in turns]
        as_set_s = (found[0].step_s + found[-1].step_s) / 2
        self.series.fed_s.append(as_set_s)
        for trial, fed in zip(turns, found, strict=True):
            self.series.fed[trial.name].append(Fed(fed.step_s / as_set_s, fed.wait_s / as_set_s))

    def _can(self, trainer: Trainer, trial: Trial) -> bool:
        """Whether every rank has images that a smaller copy would change."""
        lacks = trial.short_side is not None and self._small[trial.short_side] is None
        return not any(largest(trainer.world, [lacks]))

    def _make_alone(self, num_threads: int) -> dict[str, Cost]:
        """The loader's stages, and what they would cost otherwise."""
        loader, trials = self._loader, self._trials
        if not loader.renders_bytes:
            return {}
        found = {
            "read": loader.read(),
            "neighbours": loader.read(neighbours=True),
            "make": loader.make(num_threads),
            "decode": loader.decode(num_threads),
        }
        copy = loader.copy()
        found |= {} if copy is None else {"copy": copy}
        if self._feeds:
            return found
        found |= {f"threads {trial}": loader.make(trial) for trial in trials.executor_threads}
        found |= {name: loader.make(num_threads, executor=name) for name in trials.executors}
        for short, pictures in self._small.items():
            if pictures is not None:
                found[f"short {short}"] = loader.make(num_threads, of=pictures)
                found[f"decode short {short}"] = loader.decode(num_threads, of=pictures)
        return found

    def figures(self) -> dict[str, Any]:
        """What this rank measured, JSON-able: medians over the rounds, seconds of a step."""
        series = self.series
        return {
            "together": median_parts(series.together),
            "step_range": [
                min(sum(one.values()) for one in series.together),
                max(sum(one.values()) for one in series.together),
            ],
            "together_cpu_s": median(series.together_cpu),
            "logging_s": median(series.logging) if series.logging else 0.0,
            "checkpoint_s": median(series.checkpoint),
            "alone": {name: median_parts(parts) for name, parts in series.alone.items()},
            "alone_cpu_s": {name: median(found) for name, found in series.alone_cpu.items()},
            "rounds": series.by_round(),
            "loader": {name: median_cost(found) for name, found in series.loader.items()},
            "beside": median_slowdown(series.beside) if series.beside else None,
            "fed": {name: median_fed(found) for name, found in series.fed.items()},
            "fed_s": median(series.fed_s) if series.fed_s else None,
            "flops": self.flops,
            "sent": self.sent,
            "timeline": [[list(segment) for segment in lap.segments] for lap in self.shown],
            "loader_line": self.loader_line,
        }
