"""A folder of images becomes a data set: plan, write shards, publish; killed and rerun, it gives the same."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from viewmill.shards.conversion.journal import PLAN
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.parts import Part
from viewmill.shards.conversion.plan import DEFAULT_SOURCE, Plan, make_plan
from viewmill.shards.conversion.run import Conversion, Progress
from viewmill.shards.conversion.splits import Split
from viewmill.shards.conversion.workers import Workers, check_workers, expect_workers
from viewmill.shards.conversion.workspace import remove_workspace, workspace_of
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import DataSetInfo, read_info
from viewmill.shards.sources.datasets import is_dataset
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.storage.faults import is_of_the_machine
from viewmill.shards.storage.sources import named_source
from viewmill.shards.survey import quarantine_reasons


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


@dataclass(frozen=True)
class PartReport:
    """What a part made; shards: its own, written: those of all parts so far, of `total`."""

    dataset: Path
    part: Part
    shards: int
    written: int
    total: int


def convert(
    source: str | Path,
    dataset: Path,
    *,
    workers: Workers = 1,
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
        source: a folder of images, a table of paths, tars, parquet, CIFAR's or STL-10's files, or a data set;
            its path or its URL.
        dataset: a folder that is new, empty, or left by an unfinished conversion of the same plan.
        workers: processes; with 1 the work is done in this one; or `RayWorkers`, a cluster.
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
        RuntimeError: a worker died, the disk is full, not one input is a usable image, or the Ray cluster is
            not to be had; ModuleNotFoundError: Ray is not installed. StorageError: a remote source does not
            answer; what is finished is kept.
    """
    options = Options(shuffle_seed, check, shard_bytes, limit, resize, quality)
    return convert_with(
        source,
        dataset,
        options,
        reading=reading,
        workers=workers,
        max_quarantine=max_quarantine,
        progress=progress,
    )


def convert_with(
    source: str | Path,
    dataset: Path,
    options: Options,
    *,
    reading: SourceOptions = DEFAULT_SOURCE,
    workers: Workers = 1,
    merge: bool = False,
    max_quarantine: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ConvertReport:
    """`convert`, with every option that there is.

    Args:
        merge: only publish what parts have written; a shard that is missing is an error.

    Raises:
        As `convert`.
    """
    plan = _planned(source, dataset, options, reading, workers)
    with machine_errors(dataset), workspace_of(dataset, plan) as workspace:
        info = Conversion(source, dataset, workspace, plan, workers, progress).finish(merge)
        remove_workspace(workspace)
    return report_of(dataset, info, max_quarantine)


def convert_part(
    source: str | Path,
    dataset: Path,
    options: Options,
    part: Part,
    *,
    reading: SourceOptions = DEFAULT_SOURCE,
    workers: Workers = 1,
    progress: Callable[[Progress], None] | None = None,
) -> PartReport:
    """Writes this part's shards of a conversion that several jobs share; `convert_with` publishes them.

    Every job sees the source and DATASET, and gives the same options; the parts may run at any time, at once
    or one after another, on any machine.

    Raises:
        As `convert`; ConvertError also where this part is running already.
    """
    plan = _planned(source, dataset, options, reading, workers)
    with machine_errors(dataset), workspace_of(dataset, plan, part) as workspace:
        conversion = Conversion(source, dataset, workspace, plan, workers, progress)
        mine = [number for number in range(len(plan.shards)) if part.has(number)]
        conversion.write(mine, conversion.done(mine))
        written = sum(record is not None for record in conversion.records())
    return PartReport(dataset, part, len(mine), written, len(plan.shards))


def convert_splits(
    source: str | Path,
    dataset: Path,
    options: Options,
    splits: Sequence[Split],
    *,
    reading: SourceOptions = DEFAULT_SOURCE,
    workers: Workers = 1,
    max_quarantine: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> list[ConvertReport]:
    """A data set DATASET/NAME for each split, with the same classes; one that is finished already stays.

    Raises:
        As `convert`; ConvertError also where DATASET/NAME is a data set of other options or another source.
    """
    reports = []
    for split in splits:
        chosen, folder = replace(options, split=split), dataset / split.name
        if is_dataset(folder) and not (folder / PLAN).exists():
            info = _same(folder, _planned(source, folder, chosen, reading, workers))
            reports.append(report_of(folder, info, max_quarantine))
            continue
        reports.append(
            convert_with(
                source,
                folder,
                chosen,
                reading=reading,
                workers=workers,
                max_quarantine=max_quarantine,
                progress=progress,
            )
        )
    return reports


def _same(folder: Path, plan: Plan) -> DataSetInfo:
    """The data set there, if it has this plan's options, inputs and classes."""
    info = read_info(folder)
    if (info.options, info.num_inputs, info.classes) != (
        plan.recorded_options(),
        plan.num_inputs,
        plan.classes,
    ):
        raise ConvertError(
            f"{folder}: holds a finished data set of other options or another source; give a new folder"
        )
    return info


def _planned(
    source: str | Path, dataset: Path, options: Options, reading: SourceOptions, workers: Workers
) -> Plan:
    check_workers(workers)
    expect_workers(workers)
    source = named_source(source)
    if isinstance(source, Path):
        _refuse_nested(source, dataset)
    try:
        return make_plan(source, options, reading)
    except OSError as error:
        if is_of_the_machine(error):
            raise RuntimeError(_in_words(error, source)) from error
        raise


@contextmanager
def machine_errors(dataset: Path) -> Iterator[None]:
    """What the system refuses (a full disk, permissions) in one line that says how to go on."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(_in_words(error, dataset)) from error


def _in_words(error: OSError, where: str | Path) -> str:
    return (
        f"{error.filename or where}: {error.strerror or error}; finished shards are kept: "
        "put it right and run the same command again"
    )


def _refuse_nested(source: Path, dataset: Path) -> None:
    inner, outer = Path(os.path.realpath(dataset)), Path(os.path.realpath(source))
    if inner == outer or outer in inner.parents:
        raise ConvertError(
            f"{dataset}: lies inside the source {source}, its shards would become inputs; move it out"
        )


def report_of(dataset: Path, info: DataSetInfo, max_quarantine: int | None) -> ConvertReport:
    """What a finished conversion has made."""
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
