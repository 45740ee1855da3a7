"""The teacher's pass over all samples before an epoch, for a method whose statistics cover the data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple

import numpy as np
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.config import RunConfig
from viewmill.engine.cut import at_hand, held_whole
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.identity import weights_hash
from viewmill.engine.passes.reading import Reading
from viewmill.engine.passes.run import PassReport, run_pass
from viewmill.engine.teacher import Teacher
from viewmill.engine.world import World
from viewmill.methods.accumulator import Accumulator
from viewmill.methods.method import Method, PassOutcome, Values
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset


class DonePass(NamedTuple):
    """What a pass read, and what is to change with it."""

    report: PassReport
    outcome: PassOutcome


@dataclass(frozen=True)
class FullPass:
    """Where a pass reads, and where it keeps its state: killed, it goes on from there after a resume.

    Each sample of the run counts once, by its eval view (short side to 8/7, centre) at the size of the
    largest views, with the teacher in evaluation mode.
    """

    dataset: Dataset
    order: Order
    config: RunConfig
    spec: ViewSpec
    world: World
    folder: Path  # exists during a pass alone
    beat: Callable[[], None] | None = None  # see `Reading`

    def before_epoch(
        self,
        method: Method,
        teacher: Teacher,
        epoch: int,
        values: Values,
        prepare: Callable[[], None] = lambda: None,
    ) -> DonePass | None:
        """The pass that the method asks for before this epoch; None: it asks for none. All ranks call it.

        prepare: called before a pass is made.
        """
        with at_hand(teacher.head):
            sums = method.pass_sums(teacher.head, epoch, values)
        if not sums:
            return None
        prepare()
        # At stage 3 too it is whole: ranks may have different numbers of batches, and none waits for another.
        with held_whole(teacher):
            return self._read(method, teacher, sums)

    def _read(self, method: Method, teacher: Teacher, sums: dict[str, Accumulator]) -> DonePass:
        teacher.eval()
        # Named after the weights: what a pass of others has left, as before a resume elsewhere, is no use.
        name = weights_hash(teacher)[:16]

        def embed(images: Tensor) -> dict[str, Tensor]:
            rows = method.pass_rows(teacher.head, teacher([images])[0])
            return {name: rows[name] for name in sums}

        try:
            report = run_pass(
                embed,
                self.dataset,
                sums,
                views=evaluation_views(self.spec.sizes[0], self.spec.mean, self.spec.std),
                reading=self._reading(),
                ids=self._members(),
                folder=self.folder / name,
                about={"teacher": name},
                max_left_out=self._budget(),
            )
        finally:
            teacher.train()
        outcome = method.take_pass(teacher.head, sums)
        from_rank_zero(self.world, lambda: rmtree(self.folder))
        return DonePass(report, outcome)

    def _reading(self) -> Reading:
        views, world = self.config.views, self.world
        batch_size = self.config.batch_size // world.world_size
        return Reading(world, views.executor, views.num_threads, batch_size, beat=self.beat)

    def _members(self) -> np.ndarray | None:
        return self.order.members if isinstance(self.order, SubsetOrder) else None

    def _budget(self) -> int:
        limit = self.config.views.max_substitutes
        return limit if isinstance(limit, int) else round(limit * self.order.num_samples)
