"""What `bench train` compares: the loop of a real run, block by block with bare steps on the same batches."""

import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.optimizers import build_optimizer, first_rates, set_rates
from viewmill.engine.scheduled import value_at
from viewmill.engine.teacher import build_teacher
from viewmill.engine.trainer import Trainer
from viewmill.pipelines.loader import Batch, Loader
from viewmill.pipelines.views import ViewSpec

QUIET_S, QUIET_SHARE = 0.2, 0.1  # so long at so little processor time: nothing is made ahead any more
LONGEST_SETTLE_S = 60.0


class Spent(NamedTuple):
    """Seconds of the wall clock, of all threads' processor time, and of waiting for data."""

    wall: float
    cpu: float
    wait: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu, self.wait - other.wait)

    def plus(self, other: "Spent") -> "Spent":
        return Spent(self.wall + other.wall, self.cpu + other.cpu, self.wait + other.wait)


NOTHING = Spent(0.0, 0.0, 0.0)


def now(wait_s: float = 0.0) -> Spent:
    return Spent(time.perf_counter(), time.process_time(), wait_s)


def settle(is_busy: Callable[[], bool] = lambda: False) -> None:
    """Waits until the process does nothing: batches ahead are made, a checkpoint on its way is written."""
    given_up = time.monotonic() + LONGEST_SETTLE_S
    while time.monotonic() < given_up:
        cpu = time.process_time()
        time.sleep(QUIET_S)
        if time.process_time() - cpu < QUIET_SHARE * QUIET_S and not is_busy():
            return


class BareStep:
    """Forward, loss, backward and update in plain torch, of a student that begins like the run's.

    No DeepSpeed, loader, log, check of the gradient, sentinel or checkpoint, torch's own BatchNorm. Of a
    distillation it has the teacher's forward and targets, for they are the method's arithmetic, but the
    teacher does not follow.
    """

    def __init__(self, config: RunConfig, spec: ViewSpec) -> None:
        self._student: Student = build_student(
            config.model, config.method, image_size=spec.sizes[0], seed=config.seed
        )
        self._teacher = build_teacher(self._student, config)
        self._optimizer = build_optimizer(self._student, config.optimizer)
        set_rates(self._optimizer, first_rates(config.optimizer))
        scheduled = config.method.scheduled().items()
        self._values = {name: value_at(number, 0, config.epochs) for name, number in scheduled}
        self._student.method.before_epoch(0)
        self._student.train()

    def __call__(self, views: list[Tensor]) -> None:
        method, targets = self._student.method, None
        if self._teacher is not None:
            targets = method.targets(self._teacher.head, self._teacher(views), self._values)
        result = method.loss(self._student(views).float(), self._values, targets)
        self._optimizer.zero_grad()
        result.loss.backward()
        self._optimizer.step()


class ViewsAlone:
    """The run's loader with nobody to train: what its views cost."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self._batches = loader, _without_end(loader)

    def cpu_s(self, count: int) -> float:
        """Processor seconds of a batch, over `count` of them."""
        settle()
        self._loader.reset_stats()
        began = time.process_time()
        for _ in range(count):
            next(self._batches)
        settle()
        made = next(stage for stage in self._loader.stats().stages if stage.name == "make").batches
        return (time.process_time() - began) / max(1, made)


def _without_end(loader: Loader) -> Iterator[Batch]:
    while True:
        yield from loader


class Round(NamedTuple):
    """Seconds of a step on either side, means over the round; and of making its views."""

    loop: Spent
    bare: Spent
    views_cpu: float


class Blocks:
    """Given to `train` as `watch`: after each block of the run's steps come bare ones on the same batches.

    What the loader and a checkpoint still do when a block ends is waited for; its processor time is the
    loop's, its wall time nobody's. So the first batches of a block stand ready, as many as are made ahead:
    with blocks much longer than that the wait for data is that of a run.

    Args:
        warm_up: steps that do not count, a multiple of `block`.
        steps: of a round, a multiple of `block`; then the views alone are measured, and a checkpoint is
            written that training waits for.
    """

    def __init__(
        self,
        bare: BareStep,
        views: ViewsAlone,
        *,
        warm_up: int,
        steps: int,
        block: int,
        tell: Callable[[str], None],
    ) -> None:
        self.rounds: list[Round] = []
        self._bare, self._views, self._tell = bare, views, tell
        self._warm_up, self._steps, self._block = warm_up, steps, block
        self._kept: list[list[Tensor]] = []
        self._sums = {"loop": NOTHING, "bare": NOTHING}
        self._began: Spent | None = None

    def __call__(self, trainer: Trainer, batches: list[Batch]) -> None:
        self._kept += [batch.views for batch in batches]
        if trainer.step % self._block == 0:
            self._end_block(trainer)

    def _end_block(self, trainer: Trainer) -> None:
        ended = now(trainer.loader.wait_s)
        settle(lambda: trainer.checkpoints.is_unwritten)
        settled = now()
        if self._began is not None:
            loop = (ended - self._began)._replace(cpu=settled.cpu - self._began.cpu)
            self._sums["loop"] = self._sums["loop"].plus(loop)
        began = now()
        for views in self._kept:
            self._bare(views)
        self._kept.clear()
        if self._began is not None:
            self._sums["bare"] = self._sums["bare"].plus(now() - began)
        self._end_round(trainer)
        self._began = now(trainer.loader.wait_s)

    def _end_round(self, trainer: Trainer) -> None:
        done, rest = divmod(trainer.step - self._warm_up, self._steps)
        if rest or done < 0:
            return
        if done:
            per_step = {
                name: Spent(*(part / self._steps for part in spent)) for name, spent in self._sums.items()
            }
            self.rounds.append(Round(per_step["loop"], per_step["bare"], self._views.cpu_s(self._block)))
            if trainer.step < trainer.last_step:  # there the run does it itself
                trainer.save(wait=True)
        else:
            self._views.cpu_s(1)  # compiles, allocates, fills the loader
        self._sums = dict.fromkeys(self._sums, NOTHING)
        self._tell(f"round {done + 1}, from step {trainer.step + 1}")
