"""Existing WebDataset tars become a data set where they are: checked and indexed, not rewritten, not copied.

The manifest, the description and DALI's indexes lie beside the tars, or in another folder that holds links to
them. Ids follow the tars' names and the members' order.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from viewmill.shards.conversion.journal import FOLDER, PLAN, ShardRecord, read_record, staged_index
from viewmill.shards.conversion.label_map import Pairs
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.plan import Plan, make_plan
from viewmill.shards.conversion.planned_image import PlannedImage
from viewmill.shards.conversion.publish import describe
from viewmill.shards.conversion.run import Progress, counter, nothing_usable
from viewmill.shards.conversion.tar_job import TarJob, index_tar
from viewmill.shards.conversion.workers import Workers, check_workers, write_shards
from viewmill.shards.conversion.workspace import remove_workspace, workspace_of
from viewmill.shards.convert import ConvertReport, machine_errors, report_of
from viewmill.shards.durable import sha256_of, sync_folder
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import FILE_NAME, MANIFEST_FILES, PLAIN_NAME, DataSetInfo, read_info
from viewmill.shards.sources.open import SourceOptions
from viewmill.shards.storage.local import LocalTree
from viewmill.shards.storage.tree import files_ending


def convert_in_place(
    tars: Path,
    dataset: Path | None = None,
    *,
    workers: Workers = 1,
    check: str = "decode",
    labels: Path | None = None,
    label_map: Pairs = (),
    max_quarantine: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ConvertReport:
    """Makes a data set of tars that stay as they are; killed, the same call goes on.

    What a conversion would re-encode cannot stay as it is: it is quarantined, with a reason that says so.

    Args:
        tars: a folder with the tars directly in it, or one tar.
        dataset: the tars' own folder, or None for it: the new files lie beside the tars. Another folder, new
            or empty, gets links to them.
        check: 'decode' decodes each image once, 'header' trusts the body.
        labels: a file with the classes, in place of those in the tars; label_map: see `label_map.renamed`.
        workers, max_quarantine, progress: as in `convert`; a tar is one job.

    Raises:
        ConvertError: tars or destination are not usable; ValueError: an option is out of range.
        RuntimeError: a worker died, the disk is full, or not one input is a usable image.
    """
    check_workers(workers)
    folder, names = tars_of(tars)
    dataset = folder if dataset is None else dataset
    beside = _names_beside(folder, dataset, tars, names)
    options = Options(shuffle_seed=None, check=check, label_map=label_map, in_place=True)
    plan = plan_in_place(tars, options, None if labels is None else str(labels))
    with machine_errors(dataset), workspace_of(dataset, plan, beside=beside) as workspace:
        indexing = Indexing(folder, names, dataset, workspace, plan, workers, progress)
        info = indexing.finish()
        remove_workspace(workspace)
    return report_of(dataset, info, max_quarantine)


def tars_of(tars: Path) -> tuple[Path, list[str]]:
    """The tars' folder, and their names in the order of their shards' numbers.

    Raises:
        ConvertError: no tar, one in a folder below, or a name that dataset.json cannot hold.
    """
    if not tars.exists():
        raise ConvertError(f"{tars}: no such file or directory; give a tar or a folder of tars")
    folder, names = (
        (tars, files_ending(LocalTree(str(tars)), ".tar")) if tars.is_dir() else (tars.parent, [tars.name])
    )
    if not names:
        raise ConvertError(f"{tars}: no tar in this folder; give a tar or a folder of tars")
    for name in names:
        if "/" in name:
            raise ConvertError(
                f"{folder / name}: lies in a folder below; --in-place takes tars that lie directly in one "
                "folder: index each folder by itself"
            )
        if not PLAIN_NAME.fullmatch(name) or not name.endswith(".tar"):
            raise ConvertError(
                f"{folder / name}: its name is no plain one (letters, digits, '_', '-', '.', at most 200, "
                "ending in .tar); rename it, or give a folder of links with plain names"
            )
    return folder, names


def plan_in_place(tars: Path, options: Options, labels: str | None) -> Plan:
    """The plan whose shards are the tars, by name; a tar without any input is a shard of none.

    Raises:
        ConvertError: a tar that is cut, damaged or compressed, or two images of one key; they are named.
    """
    plan = make_plan(tars, options, SourceOptions(kind="tar", labels=labels))
    of_tar: dict[str, list[PlannedImage]] = {name: [] for name in tars_of(tars)[1]}
    for image in chain.from_iterable(plan.shards):
        of_tar[image.place.file].append(image)
    return replace(plan, shards=tuple(tuple(images) for images in of_tar.values()))


@dataclass(frozen=True)
class Indexing:
    """A plan, the workspace that is its own, and how the work is done.

    folder, names: of the tars, whose numbers are those of the plan's shards.
    """

    folder: Path
    names: list[str]
    dataset: Path
    workspace: Path
    plan: Plan
    workers: Workers
    progress: Callable[[Progress], None] | None

    def finish(self) -> DataSetInfo:
        """Does what is left to do, which is nothing where a crash came after dataset.json, the last file.

        Raises:
            RuntimeError: not one input is a usable image.
        """
        if (self.dataset / FILE_NAME).exists():
            return read_info(self.dataset)
        records = self.records()
        if not any(record.num_samples for record in records):
            remove_workspace(self.workspace)
            raise nothing_usable(self.folder.absolute(), self.plan, records)
        for number, name in enumerate(self.names):
            staged = staged_index(self.workspace, number)
            if staged.exists():  # not so where a crash came after this move
                staged.replace((self.dataset / name).with_suffix(".idx"))
            if not is_same_folder(self.folder, self.dataset):
                link_to(self.folder / name, self.dataset / name)
        sync_folder(self.dataset)  # links and moves are durable before dataset.json names the shards
        return describe(self.dataset, self.plan, records, dict(enumerate(self.names)), [])

    def records(self) -> list[ShardRecord]:
        """Of every tar; those that are missing are made."""
        earlier = {number: self._done(number) for number in range(len(self.names))}
        done = {number: record for number, record in earlier.items() if record is not None}
        jobs = [
            TarJob(
                number,
                str((self.folder / name).absolute()),
                str(self.workspace),
                self.plan.options.check,
                self.plan.shards[number],
            )
            for number, name in enumerate(self.names)
            if number not in done
        ]
        write_shards(jobs, index_tar, self.workers, counter(self.plan, done, self.progress))
        found = (read_record(self.workspace, number) for number in range(len(self.names)))
        return [record for record in found if record is not None]

    def _done(self, number: int) -> ShardRecord | None:
        """The record that an earlier, killed run left; the plan answers for the tar's size and time."""
        record, tar = read_record(self.workspace, number), self.folder / self.names[number]
        index = staged_index(self.workspace, number)
        published = (self.dataset / self.names[number]).with_suffix(".idx")
        if record is None or not (index.exists() or published.exists()):
            return None
        # A tar without inputs has no line in the plan.
        return record if self.plan.shards[number] or sha256_of(tar) == record.sha256 else None


def link_to(tar: Path, link: Path) -> None:
    """A link to a tar, in place of an earlier link."""
    if link.is_symlink():
        link.unlink()
    link.symlink_to(tar.absolute())


def is_same_folder(first: Path, second: Path) -> bool:
    """Whether two paths lead to one folder; the second may not exist yet."""
    return os.path.realpath(first) == os.path.realpath(second)


def _names_beside(folder: Path, dataset: Path, tars: Path, names: list[str]) -> frozenset[str] | None:
    """What is written beside the tars; None where the data set has a folder of its own."""
    if not is_same_folder(folder, dataset):
        if tars.is_dir() and Path(os.path.realpath(folder)) in Path(os.path.realpath(dataset)).parents:
            raise ConvertError(
                f"{dataset}: lies inside {folder}, its links would become tars of it; move it out, or leave "
                "it away: the data set then lies beside the tars"
            )
        return None
    others = sorted({path.name for path in folder.glob("*.tar")} - set(names))
    if others:
        raise ConvertError(
            f"{folder}: holds other tars beside ({others[0]}); give the folder to index them all, or another "
            "DATASET for this one"
        )
    indexes = (Path(name).with_suffix(".idx").name for name in names)
    return frozenset({FILE_NAME, FOLDER, PLAN, *MANIFEST_FILES, *indexes})
