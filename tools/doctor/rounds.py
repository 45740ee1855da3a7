"""The measurement of a run while it trains: blocks of its steps in turn with each of its stages alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from viewmill.engine.agreement import largest
from viewmill.engine.faults.pulse import Phase
from viewmill.engine.schedules import method_values
from viewmill.engine.spans import Part
from viewmill.engine.step import Step, train_step
from viewmill.engine.trainer import Trainer
from viewmill.pipelines.loader import Batch
from viewmill.tools.bench.train_peers import settle
from viewmill.tools.doctor.arithmetic import count_flops
from viewmill.tools.doctor.beside import Making, Slowdown, steps_for
from viewmill.tools.doctor.collectives import Traffic
from viewmill.tools.doctor.costs import Cost
from viewmill.tools.doctor.loader_alone import LoaderAlone
from viewmill.tools.doctor.pictures import resized
from viewmill.tools.doctor.series import (
    Parts,
    Series,
    mean_parts,
    median_cost,
    median_parts,
    median_slowdown,
)
from viewmill.tools.doctor.stopwatch import Lap, Stopwatch

SHOWN_STEPS = 6  # of the time line


@dataclass(frozen=True)
class Trials:
    """What is measured beside the run's own settings: numbers of threads, and short sides in pixels."""

    executor_threads: tuple[int, ...] = ()
    torch_threads: tuple[int, ...] = ()
    executors: tuple[str, ...] = ()
    short_sides: tuple[int, ...] = ()
    doubles_batch: bool = True


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
            self.flops = count_flops(self._step_of(trainer, batches))
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
        found: list[tuple[str, Parts, float]] = [("", *self._train_alone(trainer, batches, steps))]
        if self._trials.doubles_batch:
            found.append(("double", *self._train_alone(trainer, batches, steps, copies=2)))
        threads = torch.get_num_threads()
        for trial in self._trials.torch_threads:
            torch.set_num_threads(trial)
            found.append((f"threads {trial}", *self._train_alone(trainer, batches, steps)))
        torch.set_num_threads(threads)
        if not counts:
            return
        for name, parts, cpu_s in found:
            self.series.alone[name].append(parts)
            self.series.alone_cpu[name].append(cpu_s)
        for name, cost in made.items():
            self.series.loader[name].append(cost)
        self._measure_beside(
            trainer, batches, steps, {name: sum(parts.values()) for name, parts, _ in found}, made
        )

    def _measure_beside(
        self,
        trainer: Trainer,
        batches: list[Batch],
        steps: int,
        train_s: dict[str, float],
        made: dict[str, Cost],
    ) -> None:
        """How views and training hold each other up, as the run is set and as it is tried.

        Only where views are made on the host: on the training's own device both wait in the same queue.

        Args:
            train_s: of a step alone, by the trial. made: of the views of a step alone, likewise.
        """
        loader, trials, views = self._loader, self._trials, trainer.config.views.num_threads
        if not (loader.renders_bytes and loader.is_on_cpu):
            return
        beside = partial(self._beside, trainer, batches, steps)
        found = {"": beside(loader.making(views), train_s[""], made["make"])}
        for trial in trials.executor_threads:
            name = f"threads {trial}"
            found[name] = beside(loader.making(trial), train_s[""], made[name])
        for name in trials.executors:
            found[name] = beside(loader.making(views, executor=name), train_s[""], made[name])
        for short, pictures in self._small.items():
            if pictures is not None:
                name = f"short {short}"
                found[name] = beside(loader.making(views, of=pictures), train_s[""], made[name])
        threads = torch.get_num_threads()
        for trial in trials.torch_threads:
            torch.set_num_threads(trial)
            name = f"threads {trial}"
            found[f"torch {name}"] = beside(loader.making(views), train_s[name], made["make"])
        torch.set_num_threads(threads)
        for name, slowdown in found.items():
            self.series.beside[name].append(slowdown)

    def _beside(
        self,
        trainer: Trainer,
        batches: list[Batch],
        steps: int,
        making: Making,
        train_s: float,
        made: Cost,
    ) -> Slowdown:
        """Trains while these views are made, long enough for each batch of them."""
        batch_s = made.wall_s / trainer.config.accumulation
        (steps,) = largest(trainer.world, [steps_for(making.num_batches, batch_s, train_s, steps)])
        with making:
            began_s = time.perf_counter()
            parts, _ = self._train_alone(trainer, batches, steps)
            beside_s = making.batch_s(began_s, time.perf_counter())
        # Where not one batch was made in all these steps, they hardly hold up what makes it.
        slower = 1.0 if beside_s is None else beside_s / batch_s
        return Slowdown(sum(parts.values()) / train_s, slower)

    def _train_alone(
        self, trainer: Trainer, batches: list[Batch], steps: int, copies: int = 1
    ) -> tuple[Parts, float]:
        """The training of a step on batches that are there: its parts, and its processor seconds; means over
        `steps`, after one that does not count.
        """
        laps, cpu_s = [], 0.0
        step = self._step_of(trainer, batches, copies)
        for number in range(1 + steps):
            self._stopwatch.begin()
            began_s = time.process_time()
            step()
            lap = self._stopwatch.lap()
            if number:  # the first one allocates, and waits for the other ranks to get there
                laps.append(lap)
                cpu_s += time.process_time() - began_s
        return mean_parts(laps), cpu_s / max(1, steps)

    def _step_of(self, trainer: Trainer, batches: list[Batch], copies: int = 1) -> Callable[[], Step]:
        """A step on these batches, as often as it is called; `copies`: each image so many times."""
        config, device = trainer.config, trainer.world.device
        views = [[view.to(device) for view in batch.views] for batch in batches]
        if copies > 1:
            views = [[torch.cat([view] * copies) for view in micro] for micro in views]
        return partial(
            train_step,
            trainer.engine,
            trainer.teacher,
            views,
            method_values(trainer.step - 1, config, trainer.steps_per_epoch),
            labels=torch.cat([batch.labels for batch in batches for _ in range(copies)]),
            loss_in_float32=config.loss_precision == "float32",
            spans=self._stopwatch,
        )

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
            "loader": {name: median_cost(found) for name, found in series.loader.items()},
            "beside": {name: median_slowdown(found) for name, found in series.beside.items()},
            "flops": self.flops,
            "sent": self.sent,
            "timeline": [[list(segment) for segment in lap.segments] for lap in self.shown],
            "loader_line": self.loader_line,
        }
