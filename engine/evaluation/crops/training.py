"""Classifiers of every rate, trained on new crops in every epoch and kept after each: a restart goes on."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.evaluation.contenders import Contender, labels_of
from viewmill.engine.evaluation.crops.protocol import SEED, CropProtocol
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.features import gather_rows, ready, represent
from viewmill.engine.evaluation.linear_probe import hold_out
from viewmill.engine.evaluation.rate_heads import RateHeads
from viewmill.engine.identity import content_hash
from viewmill.engine.passes.reading import Reading, together
from viewmill.pipelines.executors.executor import resolved_name
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.order import SampleOrder
from viewmill.pipelines.orders.interface import Order
from viewmill.pipelines.orders.subset import SubsetOrder
from viewmill.pipelines.passes import ids_of_rank, read_epochs, segments_of
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

TIMED_STEPS = 10  # from the second on: the estimate is made of them
_VIEWS = ViewFormat("float32", channels_last=True)  # as `represent` feeds it


@dataclass(frozen=True)
class Crops:
    """What the classifiers of every backbone learn from, and where their state is kept."""

    dataset: Dataset
    classes: Sequence[int]  # numbers of those that are compared, which become 0, 1, ...
    protocol: CropProtocol
    views: ViewSpec
    reading: Reading
    cache: TensorCache
    say: Callable[[str], None]  # on every rank; it is heard of rank 0 alone

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64 of the whole data set, places in `classes`; -1: not compared."""
        place = torch.full((len(self.dataset.classes) + 1,), -1)  # the last is where label -1 leads
        place[list(self.classes)] = torch.arange(len(self.classes))
        return place[labels_of(self.dataset)]

    @cached_property
    def members(self) -> np.ndarray:
        """(n,) ids of the images that are compared, ascending."""
        return np.flatnonzero(self.labels.numpy() >= 0)

    @cached_property
    def held_out(self) -> Tensor:
        """(N,) bool, of the whole data set: which images choose the rate."""
        held_out = torch.zeros(len(self.labels), dtype=torch.bool)
        held_out[self.members] = hold_out(self.labels[self.members])
        return held_out

    @cached_property
    def order(self) -> Order:
        """Of the members; another one in every epoch."""
        if len(self.members) == self.dataset.num_samples:
            return SampleOrder(self.dataset.num_samples, SEED)
        return SubsetOrder(self.members, self.dataset.num_samples, SEED)

    @property
    def num_heads(self) -> int:
        """A classifier of all images for each rate; behind them, where one is chosen, one for choosing."""
        return len(self.protocol.rates) * (2 if self.protocol.chooses else 1)

    def counted(self, ids: np.ndarray) -> Tensor | None:
        """(n, heads) bool: which of these images each classifier learns from; None: all from all."""
        if not self.protocol.chooses:
            return None
        kept = ~self.held_out[ids]
        columns = torch.stack([torch.ones_like(kept), kept], dim=1)
        return columns.repeat_interleave(len(self.protocol.rates), dim=1)

    def key(self, contender: Contender, epoch: int) -> Key:
        """Of the state after so many epochs: all that it depends on but the number of ranks."""
        reading = self.reading
        return {
            "what": "classifiers on crops",
            "protocol": [self.protocol.id, list(self.protocol.rates)],  # an id has six digits of a rate
            "backbone": contender.identity,
            "data": content_hash(self.dataset),
            "classes": list(self.classes),
            "views": repr(self.views),
            "executor": [resolved_name(reading.executor, reading.executor_device), reading.executor_device],
            "epochs_done": epoch,
        }


def epochs_done(contender: Contender, crops: Crops) -> int:
    """Epochs behind the newest state that was kept of this backbone; 0: there is none. All ranks call it."""

    def look() -> int:
        epochs = range(crops.protocol.epochs, 0, -1)
        return next((epoch for epoch in epochs if crops.cache.has(crops.key(contender, epoch))), 0)

    return int(from_rank_zero(crops.reading.world, look))


def trained_heads(contender: Contender, crops: Crops) -> RateHeads:
    """The classifiers after all epochs, the same on every rank; begun where an interruption left them.

    A rank computes its share of a batch's representations, gets all of them, and takes the same step as all:
    what is sent is n x F numbers a step whatever the number of rates and classes. So on any number of ranks
    the numbers are those of one, up to how float32 sums a forward of other images.

    Raises:
        RankError: another rank failed. RuntimeError: a representation is not finite; names the sample.
        ShardError, BatchDecodeError: a sample that cannot be used.
    """
    world, protocol = crops.reading.world, crops.protocol
    width = cast(int, contender.backbone.num_features)
    heads = RateHeads(
        protocol.rates * (crops.num_heads // len(protocol.rates)),
        width,
        len(crops.classes),
        momentum=protocol.momentum,
        decay=protocol.decay,
        device=world.device,
    )
    done = epochs_done(contender, crops)
    if done:
        heads.unpack(together(world, lambda: crops.cache.load(crops.key(contender, done))))
    if done < protocol.epochs:
        _train(heads, contender, crops, range(done, protocol.epochs))
    if world.world_size > 1:
        # Ranks on unlike hardware would be a rounding apart, and the scores with them.
        state = heads.packed()
        dist.broadcast(state, src=0)
        heads.unpack(state)
    return heads


def _train(heads: RateHeads, contender: Contender, crops: Crops, epochs: range) -> None:
    """The epochs that are left; after each the state is kept, and the one before the last forgotten."""
    world, protocol = crops.reading.world, crops.protocol
    ready(contender.backbone, world.device)
    total, num_steps = len(crops.members), -(-len(crops.members) // protocol.batch)
    clock = _Clock(contender.name, crops, images=len(epochs) * total)
    with closing(cast(Any, _batches(crops, epochs))) as batches:
        for epoch in epochs:
            for step, places in enumerate(segments_of(total, 0, protocol.batch)):
                ids = crops.order.ids(epoch, places.start, places.stop)
                features = _representations(contender, crops, batches, ids)
                counted = crops.counted(ids)
                heads.step(
                    features.to(world.device),
                    crops.labels[ids].to(world.device),
                    protocol.factor(epoch, step, num_steps),
                    None if counted is None else counted.to(world.device),
                )
                clock.tick(len(ids))
                done = epoch * total + places.stop
                crops.reading.tell(f"crops of {contender.name}", done, protocol.epochs * total)
            from_rank_zero(world, partial(_keep, heads, contender, crops, epoch + 1))


def _batches(crops: Crops, epochs: range) -> Iterator[Batch]:
    reading, world = crops.reading, crops.reading.world
    return read_epochs(
        crops.dataset,
        crops.views,
        crops.protocol.batch,
        crops.order,
        epochs,
        executor=reading.executor,
        num_threads=reading.num_threads,
        rank=world.rank,
        world_size=world.world_size,
        device=reading.executor_device,
        seed=SEED,
        view_format=_VIEWS,
    )


def _representations(contender: Contender, crops: Crops, batches: Iterator[Batch], ids: np.ndarray) -> Tensor:
    """(n, F) float32 on the CPU, of the crops of a batch, in its order, on every rank."""
    world = crops.reading.world
    own = ids_of_rank(len(ids), world.rank, world.world_size)

    def share() -> Tensor:
        if not own:
            return torch.empty(0, cast(int, contender.backbone.num_features))
        batch = next(batches)
        assert np.array_equal(batch.ids, ids[own.start : own.stop])
        pieces = batch.views[0].split(crops.reading.batch_size)
        return torch.cat([represent(contender.backbone, piece, world.device) for piece in pieces])

    features = gather_rows(together(world, share), len(ids), world)
    bad = (~torch.isfinite(features).all(dim=1)).nonzero().flatten()
    if len(bad):
        key = crops.dataset.keys([int(ids[bad[0]])])[0]
        raise RuntimeError(
            f"{crops.dataset.shown}: the representations of {len(bad)} crops are not finite, the first is of "
            f"'{key}'; the weights have diverged, evaluate an earlier checkpoint"
        )
    return features


def _keep(heads: RateHeads, contender: Contender, crops: Crops, epoch: int) -> None:
    """The state before stays beside the newest: a damaged file costs one epoch, not all."""
    crops.cache.store(crops.key(contender, epoch), heads.packed())
    crops.cache.remove(crops.key(contender, epoch - 2))


class _Clock:
    """Says once, from the first batches, how long it will take."""

    def __init__(self, name: str, crops: Crops, images: int) -> None:
        self._name, self._crops, self._images = name, crops, images
        self._steps, self._seen, self._since = 0, 0, 0.0

    def tick(self, images: int) -> None:
        """A step of so many images has ended."""
        self._steps, self._images = self._steps + 1, self._images - images
        if self._steps == 1:  # after what is done once: threads, kernels
            self._since = time.perf_counter()
            return
        self._seen += images
        if self._steps == TIMED_STEPS + 1 or (self._images == 0 and self._steps <= TIMED_STEPS):
            speed = self._seen / (time.perf_counter() - self._since)
            hours = self._images / speed / 3600
            self._crops.say(
                f"crops@{self._crops.protocol.name}, {self._name}: {speed:,.0f} images/s, {hours:,.2f} hours "
                f"for the {self._images:,} that are left"
            )
