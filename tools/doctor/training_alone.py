"""The training of a step with no run around it: alone, beside a loader, and fed by one."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from viewmill.engine.agreement import largest
from viewmill.engine.schedules import method_values
from viewmill.engine.step import Step, train_step
from viewmill.engine.trainer import Trainer
from viewmill.pipelines.loader import Batch
from viewmill.tools.doctor.beside import MOST_STEPS, Slowdown, steps_for
from viewmill.tools.doctor.costs import Cost
from viewmill.tools.doctor.feeding import Feeding
from viewmill.tools.doctor.loader_alone import LEAST_S, LoaderAlone
from viewmill.tools.doctor.pictures import Pictures
from viewmill.tools.doctor.series import Fed, Parts, mean_parts
from viewmill.tools.doctor.stopwatch import Lap, Stopwatch
from viewmill.tools.doctor.trials import Trial


class TrainingAlone:
    """Trains steps of a run that stands still meanwhile; all ranks call the same.

    Args:
        stopwatch: the spans of the run's steps.
        loader: makes views beside them.
    """

    def __init__(self, stopwatch: Stopwatch, loader: LoaderAlone) -> None:
        self._stopwatch, self._loader = stopwatch, loader

    def train(
        self, trainer: Trainer, batches: list[Batch], steps: int, copies: int = 1
    ) -> tuple[Parts, float]:
        """The training of a step on batches that are there: its parts, and its processor seconds.

        Means over `steps` or more, after one that does not count.
        """
        step = self.step_of(trainer, batches, copies)
        first, _ = self._lap(step)  # allocates, and waits for the other ranks to get there
        if not steps:
            return mean_parts([]), 0.0
        laps, cpu_s = zip(*(self._lap(step) for _ in range(self._enough(trainer, steps, first))), strict=True)
        return mean_parts(list(laps)), sum(cpu_s) / len(cpu_s)

    def _lap(self, step: Callable[[], Step]) -> tuple[Lap, float]:
        """What the parts of a step take, and its processor seconds."""
        self._stopwatch.begin()
        began_s = time.process_time()
        step()
        return self._stopwatch.lap(), time.process_time() - began_s

    def _enough(self, trainer: Trainer, steps: int, lap: Lap) -> int:
        """So many steps like this one, and more where they are short; the same number on all ranks."""
        step_s = sum(lap.parts().values())
        return largest(trainer.world, [max(steps, min(MOST_STEPS, round(LEAST_S / step_s)))])[0]

    def step_of(self, trainer: Trainer, batches: list[Batch], copies: int = 1) -> Callable[[], Step]:
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

    def beside(
        self, trainer: Trainer, batches: list[Batch], steps: int, train_s: float, made: Cost
    ) -> Slowdown:
        """How views and training hold each other up: the training of a step, which takes `train_s` alone,
        while views are made long enough for each batch of them.
        """
        batch_s, making = made.wall_s / trainer.config.accumulation, self._loader.making()
        (steps,) = largest(trainer.world, [steps_for(making.num_batches, batch_s, train_s, steps)])
        with making:
            began_s = time.perf_counter()
            parts, _ = self.train(trainer, batches, steps)
            beside_s = making.batch_s(began_s, time.perf_counter())
        # Where not one batch was made in all these steps, they hardly hold up what makes it.
        slower = 1.0 if beside_s is None else beside_s / batch_s
        return Slowdown(sum(parts.values()) / train_s, slower)

    def fed(self, trainer: Trainer, trial: Trial, small: Pictures | None, least: int) -> Fed:
        """Steps on views that are made meanwhile, each batch of them as often as the others.

        Those steps in which the loader begins are left out.
        """
        accumulation = trainer.config.accumulation
        with self._loader.feeding(trial, small) as feeding, torch_threads(trial.torch_threads):
            begun = 1 + -(-(feeding.prefetch + 2) // accumulation)
            step_s = self._fed_steps(trainer, feeding, begun).step_s
            cycle = -(-feeding.num_batches // accumulation)
            enough = max(least, round(LEAST_S / step_s))
            (steps,) = largest(trainer.world, [min(MOST_STEPS, cycle * -(-enough // cycle))])
            return self._fed_steps(trainer, feeding, steps)

    def _fed_steps(self, trainer: Trainer, feeding: Feeding, count: int) -> Fed:
        """Of one of these steps."""
        began_s, waited_s = time.perf_counter(), feeding.wait_s
        for _ in range(count):
            self._stopwatch.begin()
            batches = [feeding.next() for _ in range(trainer.config.accumulation)]
            self.step_of(trainer, batches)()
        if trainer.world.device.type == "cuda":
            torch.cuda.synchronize(trainer.world.device)
        return Fed((time.perf_counter() - began_s) / count, (feeding.wait_s - waited_s) / count)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """While inside, torch computes with so many threads; None: with as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
