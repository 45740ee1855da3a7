"""A folder of images becomes a data set: plan, write shards, publish; killed and rerun, it gives the same."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.durable import sha256_of
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import FILE_NAME, DataSetInfo, read_info
from viewmill.shards.journal import (
    ShardRecord,
    read_record,
    remove_workspace,
    spill_folder,
    staged_index,
    staged_tar,
    workspace_of,
)
from viewmill.shards.plan import DEFAULT_SOURCE, Options, Plan, make_plan
from viewmill.shards.publish import final_names, publish
from viewmill.shards.shard_job import ShardJob
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.survey import quarantine_reasons
from viewmill.shards.workers import write_shards


class Progress(NamedTuple):
    """How far a conversion is: inputs dealt with, their source bytes, how many of them are quarantined."""

    images: int
    bytes: int
    quarantined: int
    total_images: int
    total_bytes: int


@dataclass(frozen=True)
class ConvertReport:
    """What a conversion made; inputs = samples + quarantined; reasons: the quarantined by kind of fault."""

    dataset: Path
    inputs: int
    samples: int
    quarantined: int
    shards: int
    bytes: int
    classes: int
    data_set_hash: str
    reasons: dict[str, int]
    max_quarantine: int | None

    @property
    def too_many_quarantined(self) -> bool:
        """Whether more inputs were quarantined than the caller allows; the data set is whole all the same."""
        return self.max_quarantine is not None and self.quarantined > self.max_quarantine


def convert(
    source: Path,
    dataset: Path,
    *,
    workers: int = 1,
    shuffle_seed: int | None = 0,
    check: str = "decode",
    shard_bytes: int | None = None,
    limit: int | None = None,
    resize: str | None = None,
    quality: int = 90,
    reading: SourceOptions = DEFAULT_SOURCE,
    max_quarantine: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ConvertReport:
    """Converts every image of `source`; the files do not depend on `workers` or on earlier, killed tries.

    Args:
        source: a folder of images, a table of paths, tars, CIFAR's or STL-10's files, or a data set.
        dataset: a folder that is new, empty, or left by an unfinished conversion of the same plan.
        workers: processes; with 1 the work is done in this one.
        shuffle_seed: of the global order, 0 .. 2^64-1; None keeps the order of the paths.
        check: 'decode' decodes each image once; 'header' trusts the body of those that are kept as they are.
        shard_bytes: source bytes of a shard, about; None is a sixteenth of the whole, 4 to 256 MiB.
        limit: convert only so many inputs, the first of the order.
        resize: 'short=256' or 'max=500' pixels for larger images, see `resize.Resize`; None keeps every size.
        quality: of the JPEGs that resizing writes, 1 to 100.
        reading: what kind of source it is, and how it is read.
        max_quarantine: only marks the report, see `ConvertReport.too_many_quarantined`.
        progress: called in this process now and then.

    Raises:
        ConvertError: source or destination are not usable; ValueError: an option is out of range.
        RuntimeError: a worker died, the disk is full, or not one input is a usable image.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    options = Options(shuffle_seed, check, shard_bytes, limit, resize, quality)
    _refuse_nested(source, dataset)
    plan = make_plan(source, options, reading)
    try:
        with workspace_of(dataset, plan) as workspace:
            info = _finish(source.absolute(), dataset, workspace, plan, workers, progress)
            remove_workspace(workspace)
    except OSError as error:
        raise RuntimeError(
            f"{error.filename or dataset}: {error.strerror or error}; finished shards are kept: "
            "put it right and run the same command again"
        ) from error
    return _report(dataset, info, max_quarantine)


def _refuse_nested(source: Path, dataset: Path) -> None:
    inner, outer = Path(os.path.realpath(dataset)), Path(os.path.realpath(source))
    if inner == outer or outer in inner.parents:
        raise ConvertError(
            f"{dataset}: lies inside the source {source}, its shards would become inputs; move it out"
        )


def _finish(
    source: Path,
    dataset: Path,
    workspace: Path,
    plan: Plan,
    workers: int,
    progress: Callable[[Progress], None] | None,
) -> DataSetInfo:
    """Does what is left to do, which is nothing where a crash came after dataset.json, the last file."""
    if (dataset / FILE_NAME).exists():
        return read_info(dataset)
    done = _done_shards(dataset, workspace, plan)
    root = plan.root.absolute()
    if plan.spill is not None and len(done) < len(plan.shards):
        plan.spill.write(plan.root, spill_folder(workspace))
        root = spill_folder(workspace).absolute()
    jobs = [
        ShardJob(number, str(root), str(workspace), plan.options, images)
        for number, images in enumerate(plan.shards)
        if number not in done
    ]
    write_shards(jobs, workers, _counter(plan, done, progress))
    records = [read_record(workspace, number) for number in range(len(plan.shards))]
    finished = [record for record in records if record is not None]
    if not any(record.samples for record in finished):
        _give_up(source, dataset, workspace, _reasons(plan, finished))
    return publish(dataset, workspace, plan, finished)


def _done_shards(dataset: Path, workspace: Path, plan: Plan) -> dict[int, ShardRecord]:
    """Shards that an earlier, killed run finished: a record, and a tar with the hash that it states."""
    records = {number: read_record(workspace, number) for number in range(len(plan.shards))}
    present = {number: record for number, record in records.items() if record is not None}
    # Publishing begins when all are there, so only then may a tar lie under its final name.
    names = final_names(list(present.values())) if len(present) == len(plan.shards) else {}
    done = {}
    for number, record in present.items():
        tar, index = staged_tar(workspace, number), staged_index(workspace, number)
        if number in names:
            final = dataset / names[number]
            tar = tar if tar.exists() else final
            index = index if index.exists() else final.with_suffix(".idx")
        if index.exists() and tar.exists() and sha256_of(tar) == record.sha256:
            done[number] = record
    return done


def _counter(
    plan: Plan, done: dict[int, ShardRecord], progress: Callable[[Progress], None] | None
) -> Callable[[int, int, int], None]:
    images = sum(len(plan.shards[number]) for number in done)
    num_bytes = sum(image.size for number in done for image in plan.shards[number])
    quarantined = sum(len(record.quarantined) for record in done.values()) + len(plan.unusable)
    total_bytes = plan.num_bytes

    def counted(new_images: int, new_bytes: int, new_quarantined: int) -> None:
        if progress is not None:
            now = (
                images + len(plan.unusable) + new_images,
                num_bytes + new_bytes,
                quarantined + new_quarantined,
            )
            progress(Progress(*now, plan.num_inputs, total_bytes))

    return counted


def _reasons(plan: Plan, records: list[ShardRecord]) -> list[str]:
    """Why each input is quarantined."""
    refused = [row.reason for record in records for row in record.quarantined]
    return refused + [found.fault for found in plan.unusable if found.fault]


def _give_up(source: Path, dataset: Path, workspace: Path, reasons: list[str]) -> None:
    remove_workspace(workspace)
    dataset.rmdir()
    if not reasons:
        raise RuntimeError(f"{source}: holds no image at all; nothing was written: give a source with images")
    kinds = Counter(reason.partition(":")[0] for reason in reasons)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    raise RuntimeError(
        f"{source}: none of {len(reasons)} files is a usable image ({counts}; the first: {reasons[0]}); "
        "nothing was written: give a folder with images"
    )


def _report(dataset: Path, info: DataSetInfo, max_quarantine: int | None) -> ConvertReport:
    return ConvertReport(
        dataset,
        info.num_inputs,
        info.num_samples,
        info.num_quarantined,
        len(info.shards),
        sum(shard.bytes for shard in info.shards),
        len(info.classes),
        info.data_set_hash,
        quarantine_reasons(dataset),
        max_quarantine,
    )
