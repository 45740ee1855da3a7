"""Shards and tables made again from the source, and taken only where they are byte for byte what was lost."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from viewmill.shards.checks.files import is_sound
from viewmill.shards.checks.tables import refused_sources
from viewmill.shards.conversion.journal import (
    ShardRecord,
    read_record,
    staged_refused,
    staged_shard,
)
from viewmill.shards.conversion.options import Options
from viewmill.shards.conversion.plan import Plan, make_plan
from viewmill.shards.conversion.publish import (
    final_names,
    manifest_table,
    quarantine_table,
    write_parquet,
)
from viewmill.shards.conversion.run import Conversion
from viewmill.shards.conversion.splits import Split
from viewmill.shards.durable import sha256_of, sync_folder
from viewmill.shards.errors import ConvertError, ShardError
from viewmill.shards.in_place import Indexing, link_to, plan_in_place, tars_of
from viewmill.shards.info import DataSetInfo, FileInfo, ShardInfo
from viewmill.shards.keys import printable
from viewmill.shards.sources.open import SourceOptions

TABLES = ("manifest.parquet", "quarantine.parquet")
_OTHER_BYTES = (
    "the source does not give the SHA-256 that dataset.json states: it has changed, or other releases of "
    "Viewmill, Pillow, pyarrow or zlib read it; take the file from a copy or convert again"
)


@dataclass(frozen=True)
class Source:
    """What a data set was made from; root and labels as `convert` got them, for dataset.json has no paths."""

    path: Path
    root: str | None = None
    labels: str | None = None


def remake(
    folder: Path, info: DataSetInfo, wanted: set[str], source: Source, aside: Path
) -> tuple[set[str], dict[str, str]]:
    """Makes the wanted shards, tables and tars of refused bytes again, and puts in place what is as it was.

    Args:
        wanted: names of unsound files; those that come from no source are left alone.
        aside: an empty folder on the same file system, for what is not trusted yet.

    Returns:
        The names of those that were made, and of the others why they were not.
    """
    wanted = {file.name for file in _files(info, wanted)} - {"manifest.bin"}
    if not wanted:
        return set(), {}
    refusals: dict[str, str] = {}
    try:
        remake_kind = _remake_in_place if info.in_place else _remake_written
        refusals = remake_kind(folder, info, wanted, source, aside)
    except (ConvertError, ShardError, FileNotFoundError) as error:
        refusals = dict.fromkeys(wanted, str(error))
    left = {file.name for file in _files(info, wanted) if not is_sound(folder, file)}
    return wanted - left, {name: refusals.get(name, _OTHER_BYTES) for name in left}


def _remake_written(
    folder: Path, info: DataSetInfo, wanted: set[str], source: Source, aside: Path
) -> dict[str, str]:
    plan = _same_plan(info, source, make_plan(source.path, *recorded_options(info, source)))
    conversion = Conversion(source.path, folder, aside, plan, workers=1, progress=None)
    hashes = {shard.sha256: shard for shard in info.shards if shard.name in wanted}
    records: dict[int, ShardRecord] = {}
    for number in _numbers(folder, info, wanted, plan):
        conversion.write([number], {})
        record = read_record(aside, number)
        assert record is not None  # the journal's last step
        records[number] = record
        staged = staged_shard(aside, number, info.kind)[0]
        if record.sha256 in hashes:
            _put(staged, folder / hashes[record.sha256].name)
        staged.unlink(missing_ok=True)  # a sound shard's, or one that nobody states
        refused = f"quarantine-{number:06d}.tar"
        if refused in wanted and staged_refused(aside, number).exists():
            _put_if_same(staged_refused(aside, number), folder, info, refused)
    # A source whose inputs are all refused, at a wrong root for example, makes no table at all.
    if wanted & {*TABLES} and any(record.num_samples for record in records.values()):
        in_order = [records[number] for number in range(len(plan.shards))]
        _remake_tables(folder, info, wanted, plan, in_order, final_names(in_order, info.kind), aside)
    return {}


def _numbers(folder: Path, info: DataSetInfo, wanted: set[str], plan: Plan) -> list[int]:
    """Which of the plan's shards are to be written: all for a table, else those that the wanted ones are.

    A shard of the plan whose inputs were all refused has no file, and takes no number from those behind it.
    """
    refused = refused_sources(folder) if is_sound(folder, info.file("quarantine.parquet")) else None
    if wanted & {*TABLES} or refused is None:
        return list(range(len(plan.shards)))
    kept = [
        number
        for number, images in enumerate(plan.shards)
        if any(printable(image.source) not in refused for image in images)
    ]
    shards = [shard.name for shard in info.shards]
    if len(kept) != len(shards):
        raise ConvertError(
            f"the source makes {len(kept)} shards with samples, dataset.json states {len(shards)}: "
            "it has changed"
        )
    of_refused = [number for number in range(len(plan.shards)) if f"quarantine-{number:06d}.tar" in wanted]
    return sorted(
        {number for number, name in zip(kept, shards, strict=True) if name in wanted} | {*of_refused}
    )


def _remake_in_place(
    folder: Path, info: DataSetInfo, wanted: set[str], source: Source, aside: Path
) -> dict[str, str]:
    """Tables from the tars themselves; a link to a tar that was moved leads to it again."""
    tars, _ = tars_of(source.path)
    for shard in info.shards:
        if shard.name in wanted and not (folder / shard.name).is_file() and is_sound(tars, shard):
            link_to(tars / shard.name, folder / shard.name)
    unsound = [shard.name for shard in info.shards if not is_sound(folder, shard)]
    if wanted & {*TABLES} and not unsound:
        names = [shard.name for shard in info.shards]
        if tars_of(folder)[1] != names:
            raise ConvertError("the folder holds other tars too: move away what is no part of the data set")
        plan = plan_in_place(folder, recorded_options(info, source)[0], source.labels)
        plan = _same_plan(info, source, plan)
        records = Indexing(folder, names, folder, aside, plan, workers=1, progress=None).records()
        _remake_tables(folder, info, wanted, plan, records, dict(enumerate(names)), aside)
    told = dict.fromkeys(unsound, "--source with a folder that holds this tar restores a link, no file")
    if unsound:
        told |= dict.fromkeys(TABLES, f"'{unsound[0]}' is not sound: repair that first")
    return told


def _remake_tables(
    folder: Path,
    info: DataSetInfo,
    wanted: set[str],
    plan: Plan,
    records: list[ShardRecord],
    names: dict[int, str],
    aside: Path,
) -> None:
    tables = {
        "manifest.parquet": lambda: manifest_table(plan, records, names),
        "quarantine.parquet": lambda: quarantine_table(plan, records),
    }
    for name, table in tables.items():
        if name in wanted:
            write_parquet(aside / name, table())
            _put_if_same(aside / name, folder, info, name)


def recorded_options(info: DataSetInfo, source: Source) -> tuple[Options, SourceOptions]:
    """The options that made a data set, from dataset.json, with the paths that it does not record.

    Raises:
        ShardError: options of another version, or none that a conversion can have.
    """
    try:
        options = Options(**_own(info.options, Options))
        options = replace(
            options,
            label_map=tuple((old, new) for old, new in options.label_map),
            split=None if options.split is None else Split(*options.split),
        )
        reading = SourceOptions(
            **{**_own(info.options, SourceOptions), "root": source.root, "labels": source.labels}
        )
        again = json.loads(json.dumps(asdict(options) | reading.without_paths()))
    except (TypeError, ValueError) as error:
        raise ShardError(
            f"the options in dataset.json are none of a conversion ({error}); convert again"
        ) from error
    unknown = sorted(name for name, value in info.options.items() if again.get(name) != value)
    if unknown:
        raise ShardError(f"dataset.json has the option '{unknown[0]}' of another version; convert again")
    return options, reading


def _own(options: dict[str, Any], kind: type) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    return {name: value for name, value in options.items() if name in known}


def _same_plan(info: DataSetInfo, source: Source, plan: Plan) -> Plan:
    """The plan, if it is of as many inputs and the same classes as the data set.

    Raises:
        ConvertError: it is not; both are named.
    """
    if plan.num_inputs != info.num_inputs:
        raise ConvertError(
            f"{source.path}: has {plan.num_inputs} inputs now, dataset.json states {info.num_inputs}: "
            "it is another source or has changed"
        )
    if plan.classes != info.classes:
        raise ConvertError(
            f"{source.path}: its classes are not those of dataset.json: it is another source or has changed, "
            "or was converted with --labels FILE, which is to be given here too"
        )
    return plan


def _put_if_same(staged: Path, folder: Path, info: DataSetInfo, name: str) -> None:
    if sha256_of(staged) == info.file(name).sha256:
        _put(staged, folder / name)


def _put(staged: Path, path: Path) -> None:
    staged.replace(path)
    sync_folder(path.parent)


def _files(info: DataSetInfo, names: set[str]) -> Iterator[ShardInfo | FileInfo]:
    yield from (shard for shard in info.shards if shard.name in names)
    yield from (file for file in info.files if file.name in names)
