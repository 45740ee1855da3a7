"""`run_pass`: one read of a data set for every accumulator, each sample once, resumable after a kill."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from viewmill.engine.agreement import gather_json
from viewmill.engine.identity import content_hash
from viewmill.engine.passes.reading import Reading, together
from viewmill.engine.passes.saved import SavedPass
from viewmill.engine.passes.visits import Visits
from viewmill.methods.accumulator import Accumulator, SampleAccumulator
from viewmill.pipelines.flow.batches import Batch
from viewmill.pipelines.flow.left_out import LeftOut, too_many
from viewmill.pipelines.orders.subset import checked_members, hash_of_numbers
from viewmill.pipelines.passes import segments_of
from viewmill.pipelines.views import ViewSpec
from viewmill.shards.manifest import Dataset

# Images (n, 3, S, S) on the rank's device -> for every accumulator, by name, its rows (n, ...).
Embed = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class PassReport:
    """What a pass read. The same on every rank but for the seconds."""

    num_samples: int  # of the pass
    left_out: dict[int, str]  # id -> why it could not be used
    resumed_at: int  # samples that an earlier session had done
    seconds: float  # of this session: reading, computing, saving and pooling

    @property
    def counted(self) -> int:
        """Samples in the sums."""
        return self.num_samples - len(self.left_out)

    @property
    def images_per_s(self) -> float:
        """Of all ranks, in this session."""
        return (self.num_samples - self.resumed_at) / self.seconds


def run_pass(
    embed: Embed,
    dataset: Dataset,
    accumulators: Mapping[str, Accumulator],
    *,
    views: ViewSpec,
    reading: Reading,
    ids: ArrayLike | None = None,
    folder: Path | str | None = None,
    save_every: int = 50,
    about: dict[str, Any] | None = None,
    max_left_out: int = 100,
    what: str = "images",
) -> PassReport:
    """Reads the data set once and gives all accumulators the sums over all ranks; every rank calls it.

    Every sample is counted once, for any number of samples and ranks, however often the pass is killed and
    started again. A sample that cannot be read or decoded is left out, named in the report, and never
    replaced: a substitute would be counted twice.

    Args:
        embed: the model in evaluation; called without gradient, on one view of n >= 1 samples.
        accumulators: empty ones, by name; they are pooled when this returns.
        views: one view a sample, without randomness if the sums are to mean the data set.
        reading: ranks, executor and batch size.
        ids: the samples of the pass, each once; None: all.
        folder: where states are kept, to go on from after a kill, on any number of ranks; None: nowhere. It
            is left with the final state: the same pass again reads nothing.
        save_every: batches of a rank between two states; so much is lost with a kill.
        about: JSON-able; what the rows depend on beside images and views: the weights' hash, say. A folder
            with states of another pass is refused.
        max_left_out: more bad samples over all ranks are an error.
        what: names the pass in the progress.

    Raises:
        ValueError: accumulators that are not empty, or whose names are not those that embed gives; a folder
            of another pass; wrong ids or views.
        RuntimeError: a row that is not finite (names the sample), or too many bad samples.
        RankError: another rank failed.
    """
    _check_empty(accumulators)
    world, began_s = reading.world, time.monotonic()
    members = None if ids is None else checked_members(ids, dataset.num_samples)
    num_samples = dataset.num_samples if members is None else len(members)
    whole = {**_about(dataset, views, members, accumulators), "model": about}
    saved = None if folder is None else SavedPass(Path(folder), world, whole)
    start, left_out = (0, {}) if saved is None else saved.restore(accumulators)
    segment = None if saved is None else save_every * reading.batch_size * world.world_size
    visit = _Visitor(embed, dataset, accumulators, world.device)
    options: dict[str, Any] = {"ids": members, "start": start, "segment": segment}
    options["left_out"] = LeftOut(max_left_out)
    with together(world, lambda: Visits(dataset, views, reading, what=what, **options)) as visits:
        for places in segments_of(num_samples, start, segment):
            read = partial(visits.read, places, visit)
            left_out = _of_all_ranks(left_out, together(world, read), max_left_out, reading, dataset)
            if saved is not None:
                saved.save(places.stop, accumulators, left_out)
    for accumulator in accumulators.values():
        accumulator.pool()
    report = PassReport(num_samples, left_out, start, time.monotonic() - began_s)
    _check_counts(accumulators, report, dataset)
    return report


class _Visitor:
    """Adds a batch to every accumulator."""

    def __init__(
        self, embed: Embed, dataset: Dataset, accumulators: Mapping[str, Accumulator], device: torch.device
    ) -> None:
        self._embed, self._dataset, self._accumulators, self._device = embed, dataset, accumulators, device

    def __call__(self, batch: Batch) -> None:
        images = batch.views[0].to(self._device, torch.float32, memory_format=torch.channels_last)
        with torch.inference_mode():
            rows = self._embed(images)
        if rows.keys() != self._accumulators.keys():
            raise ValueError(f"embed gives {sorted(rows)}, the accumulators are {sorted(self._accumulators)}")
        for name, accumulator in self._accumulators.items():
            if len(rows[name]) != len(batch.ids):
                raise ValueError(
                    f"embed gives {len(rows[name])} rows of '{name}' for {len(batch.ids)} images"
                )
            if isinstance(accumulator, SampleAccumulator):
                accumulator.of_samples(batch.ids)
            try:
                accumulator.update(rows[name])
            except ValueError as error:
                self._name_not_finite(rows[name], batch.ids, name, error)
                raise

    def _name_not_finite(self, rows: Tensor, ids: np.ndarray, name: str, error: ValueError) -> None:
        """Raises RuntimeError with the key of the first sample whose rows are not finite, if there is one."""
        bad = (~torch.isfinite(rows).flatten(1).all(dim=1)).nonzero().flatten()
        if len(bad):
            key = self._dataset.keys([int(ids[int(bad[0])])])[0]
            raise RuntimeError(
                f"{self._dataset.shown}: sample '{key}' has '{name}' that are not finite, as have "
                f"{len(bad) - 1} more of its batch; the weights have diverged, take an earlier checkpoint"
            ) from error


def _about(
    dataset: Dataset,
    views: ViewSpec,
    members: np.ndarray | None,
    accumulators: Mapping[str, Accumulator],
) -> dict[str, Any]:
    """What the sums depend on, the model apart."""
    return {
        "data": content_hash(dataset),
        "samples": "all" if members is None else [len(members), hash_of_numbers(members)],
        "views": repr(views),
        "accumulators": {name: one.settings() for name, one in accumulators.items()},
    }


def _of_all_ranks(
    before: dict[int, str], mine: dict[int, str], budget: int, reading: Reading, dataset: Dataset
) -> dict[int, str]:
    """Samples left out so far, by all ranks and sessions.

    Raises:
        RuntimeError: on all ranks: they are more than the budget.
    """
    found = dict(before)
    own = {str(sample): reason for sample, reason in mine.items()}
    for reasons in gather_json(reading.world, own):
        found |= {int(sample): reason for sample, reason in reasons.items()}
    if len(found) > budget:
        raise too_many(found, budget, dataset)
    return found


def _check_empty(accumulators: Mapping[str, Accumulator]) -> None:
    for name, accumulator in accumulators.items():
        if "/" in name or accumulator.count:
            raise ValueError(
                f"accumulator '{name}' has {accumulator.count} samples already; a pass takes empty ones, "
                "whose names have no '/'"
            )
    if not accumulators:
        raise ValueError("a pass without accumulators: give at least one")


def _check_counts(accumulators: Mapping[str, Accumulator], report: PassReport, dataset: Dataset) -> None:
    for name, accumulator in accumulators.items():
        if accumulator.count != report.counted:
            raise RuntimeError(
                f"{dataset.shown}: '{name}' has {accumulator.count} samples, {report.counted} were read; a "
                "defect, please report it"
            )
