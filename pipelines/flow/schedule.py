"""Which samples make up the batches of a rank, from a position on: the order, cut into micro-batches."""

import itertools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from viewmill.pipelines.flow.batches import Planned
from viewmill.pipelines.flow.data_position import DataPosition
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.positions import positions_of_micro_batch
from viewmill.pipelines.samples import Samples

_AHEAD = 8  # micro-batches whose samples are on their way from a remote store


@dataclass(frozen=True)
class Share:
    """Which part of every global batch this rank reads."""

    num_steps: int  # of an epoch
    global_batch: int
    accumulation: int
    rank: int
    world_size: int

    @property
    def micro_size(self) -> int:
        """Samples of one micro-batch of all ranks."""
        return self.global_batch // self.accumulation

    def positions(self, step: int, micro: int) -> range:
        """This rank's positions in the epoch's order."""
        return positions_of_micro_batch(
            step,
            micro,
            self.rank,
            global_batch=self.global_batch,
            accumulation=self.accumulation,
            world_size=self.world_size,
        )


def announced(dataset: Samples, planned: Iterator[Planned]) -> Iterator[Planned]:
    """The same batches; the data set fetches their samples while the `_AHEAD` batches before are made."""
    waiting: deque[Planned] = deque()
    for batch in planned:
        dataset.prefetch(batch.ids)
        waiting.append(batch)
        if len(waiting) > _AHEAD:
            yield waiting.popleft()


def planned_batches(
    order: Order, share: Share, at: DataPosition, replacing: Mapping[tuple[int, int], int]
) -> Iterator[Planned]:
    """This rank's micro-batches from a position on, epoch after epoch, without end."""
    first = at.position // share.micro_size
    for epoch in itertools.count(at.epoch):
        for index in range(first, share.num_steps * share.accumulation):
            step, micro = divmod(index, share.accumulation)
            here = share.positions(step, micro)
            ids = order.ids(epoch, here.start, here.stop)
            for (other, position), sample in replacing.items():
                if other == epoch and position in here:
                    ids[position - here.start] = sample
            yield Planned(epoch, here.start, ids, epoch * share.num_steps + step, micro)
        first = 0
