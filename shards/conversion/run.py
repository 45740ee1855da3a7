"""A conversion at work: which shards are done, which are written now, and the end of it all."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from viewmill.shards.conversion.journal import ShardRecord, read_record, spill_folder, staged_shard
from viewmill.shards.conversion.plan import Plan
from viewmill.shards.conversion.publish import final_names, publish
from viewmill.shards.conversion.shard_job import ShardJob, write_shard
from viewmill.shards.conversion.workers import Workers, write_shards
from viewmill.shards.conversion.workspace import remove_workspace
from viewmill.shards.durable import sha256_of
from viewmill.shards.errors import ConvertError
from viewmill.shards.info import FILE_NAME, DataSetInfo, read_info
from viewmill.shards.storage.local import LocalTree


class Progress(NamedTuple):
    """How far a conversion is: inputs dealt with, their source bytes, how many of them are quarantined."""

    images: int
    bytes: int
    quarantined: int
    total_images: int
    total_bytes: int


@dataclass(frozen=True)
class Conversion:
    """A plan, its locked workspace, and how the work is done."""

    source: str | Path
    dataset: Path
    workspace: Path
    plan: Plan
    workers: Workers
    progress: Callable[[Progress], None] | None

    def records(self) -> list[ShardRecord | None]:
        """Of every shard of the plan; None where it is not done."""
        return [read_record(self.workspace, number) for number in range(len(self.plan.shards))]

    def finish(self, merge: bool) -> DataSetInfo:
        """Does what is left to do, which is nothing where a crash came after dataset.json, the last file.

        Raises:
            ConvertError: `merge`, and a shard is missing; RuntimeError: not one input is a usable image.
        """
        if (self.dataset / FILE_NAME).exists():
            return read_info(self.dataset)
        everything = range(len(self.plan.shards))
        done = self.done(everything)
        missing = [number for number in everything if number not in done]
        if missing and merge:
            shown = ", ".join(map(str, missing[:20])) + (", ..." if len(missing) > 20 else "")
            raise ConvertError(
                f"{self.dataset}: {len(missing)} of {len(everything)} shards are not written ({shown}); "
                "run the parts that are missing, or the same command without --merge"
            )
        self.write(everything, done)
        records = [record for record in self.records() if record is not None]
        if not any(record.num_samples for record in records):
            self._give_up(records)
        return publish(self.dataset, self.workspace, self.plan, records)

    def done(self, numbers: Iterable[int]) -> dict[int, ShardRecord]:
        """Those that an earlier, killed run finished: a record, and a shard with the hash that it states."""
        records = {number: read_record(self.workspace, number) for number in numbers}
        present = {number: record for number, record in records.items() if record is not None}
        kind = self.plan.options.format
        # Publishing begins when all are there, so only then may a shard lie under its final name.
        names = final_names(list(present.values()), kind) if len(present) == len(self.plan.shards) else {}
        done = {}
        for number, record in present.items():
            files = staged_shard(self.workspace, number, kind)
            if number in names:
                final = self.dataset / names[number]
                files = [file if file.exists() else final.with_suffix(file.suffix) for file in files]
            if all(file.exists() for file in files) and sha256_of(files[0]) == record.sha256:
                done[number] = record
        return done

    def write(self, numbers: Iterable[int], done: dict[int, ShardRecord]) -> None:
        """Writes those of these shards that are not done."""
        tree, missing = self.plan.tree, [number for number in numbers if number not in done]
        if self.plan.spill is not None and missing:
            self.plan.spill.write(tree, spill_folder(self.workspace))
            tree = LocalTree(str(spill_folder(self.workspace).absolute()))
        jobs = [
            ShardJob(
                number,
                tree,
                str(self.workspace),
                self.plan.options,
                self.plan.shards[number],
                alone=self.workers == 1,
            )
            for number in missing
        ]
        write_shards(jobs, write_shard, self.workers, counter(self.plan, done, self.progress))

    def _give_up(self, records: list[ShardRecord]) -> None:
        remove_workspace(self.workspace)
        self.dataset.rmdir()
        source = self.source.absolute() if isinstance(self.source, Path) else self.source
        raise nothing_usable(source, self.plan, records)


def nothing_usable(source: str | Path, plan: Plan, records: list[ShardRecord]) -> RuntimeError:
    """The error of a source without one usable image; it counts the reasons."""
    refused = [row.reason for record in records for row in record.quarantined]
    reasons = refused + [found.fault for found in plan.unusable if found.fault]
    if not reasons:
        return RuntimeError(
            f"{source}: holds no image at all; nothing was written: give a source with images"
        )
    kinds = Counter(reason.partition(":")[0] for reason in reasons)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    remedy = "give a source with images"
    if set(kinds) == {"unreadable"}:
        remedy = "check its paths and permissions; those of a table start from --root"
    return RuntimeError(
        f"{source}: none of {len(reasons)} files is a usable image ({counts}; the first: {reasons[0]}); "
        f"nothing was written: {remedy}"
    )


def counter(
    plan: Plan, done: dict[int, ShardRecord], progress: Callable[[Progress], None] | None
) -> Callable[[int, int, int], None]:
    """What `write_shards` tells its totals, made into the `Progress` of the whole conversion."""
    images = sum(len(plan.shards[number]) for number in done)
    num_bytes = sum(image.size for number in done for image in plan.shards[number])
    quarantined = sum(len(record.quarantined) for record in done.values()) + len(plan.unusable)
    total_images, total_bytes = plan.num_inputs, plan.num_bytes

    def counted(new_images: int, new_bytes: int, new_quarantined: int) -> None:
        if progress is not None:
            now = (
                images + len(plan.unusable) + new_images,
                num_bytes + new_bytes,
                quarantined + new_quarantined,
            )
            progress(Progress(*now, total_images, total_bytes))

    return counted
