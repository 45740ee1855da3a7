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
from viewmill.tools.doctor.loader_alone import LoaderAlone
from viewmill.tools.doctor.pictures import Pictures
from viewmill.tools.doctor.series import Fed, Parts, mean_parts
from viewmill.tools.doctor.stopwatch import Stopwatch
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
        """The training of a step on batches that are there: its parts, and its processor seconds; means over
        `steps`, after one that does not count.
        """
        laps, cpu_s = [], 0.0
        step = self.step_of(trainer, batches, copies)
        for number in range(1 + steps):
            self._stopwatch.begin()
            began_s = time.process_time()
            step()
            lap = self._stopwatch.lap()
            if number:  # the first one allocates, and waits for the other ranks to get there
                laps.append(lap)
                cpu_s += time.process_time() - began_s
        return mean_parts(laps), cpu_s / max(1, steps)

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
            cycle = -(-feeding.num_batches // accumulation)
            steps = min(MOST_STEPS, cycle * -(-least // cycle))
            self._fed_steps(trainer, feeding, 1 + -(-(feeding.prefetch + 2) // accumulation))
            began_s, waited_s = time.perf_counter(), feeding.wait_s
            self._fed_steps(trainer, feeding, steps)
            return Fed((time.perf_counter() - began_s) / steps, (feeding.wait_s - waited_s) / steps)

    def _fed_steps(self, trainer: Trainer, feeding: Feeding, count: int) -> None:
        device = trainer.world.device
        for _ in range(count):
            self._stopwatch.begin()
            batches = [feeding.next() for _ in range(trainer.config.accumulation)]
            self.step_of(trainer, batches)()
        if device.type == "cuda":
            torch.cuda.synchronize(device)


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """While inside, torch computes with so many threads; None: with as many as it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
