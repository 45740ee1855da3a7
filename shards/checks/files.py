"""Whole files against dataset.json: there, of the right size, of the right SHA-256; and what is too much."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from viewmill.shards.checks.faults import Fault
from viewmill.shards.durable import TEMPORARY, sha256_of
from viewmill.shards.info import FILE_NAME, KINDS, DataSetInfo, FileInfo, ShardInfo

ASIDE = ".repair"  # where a repair writes what it does not trust yet
_FROM_SOURCE = "take it from a copy, or make it again from its source: verify --repair --source SOURCE"
IN_PLACE = "the tar itself is the data: take it from a copy"
_REMEDIES = {
    "manifest.bin": "verify --repair rebuilds it",
    "manifest.parquet": "verify --repair rebuilds it from sound shards",
}


def description_faults(folder: Path, info: DataSetInfo) -> Iterator[Fault]:
    """Whatever reading overlooks: an unknown entry, other spaces, no hash of itself."""
    if (folder / FILE_NAME).read_text(encoding="utf-8") != info.to_json():
        yield Fault(FILE_NAME, "is not as it was written; take it from a copy or convert again")


def file_faults(folder: Path, file: FileInfo | ShardInfo, in_place: bool = False) -> Iterator[Fault]:
    """At most one fault: missing, of another size, of another hash; in_place: a tar that was only indexed."""
    path = folder / file.name
    remedy = IN_PLACE if in_place else _REMEDIES.get(file.name, _FROM_SOURCE)
    if not path.is_file():
        found = "a link to a file that is gone" if path.is_symlink() else "missing"
        yield Fault(file.name, f"is {found}; {remedy}")
    elif path.stat().st_size != file.bytes:
        yield Fault(file.name, f"has {path.stat().st_size} bytes, dataset.json says {file.bytes}; {remedy}")
    elif (found := sha256_of(path)) != file.sha256:
        yield Fault(
            file.name, f"has SHA-256 {found[:16]}..., dataset.json says {file.sha256[:16]}...; {remedy}"
        )


def is_sound(folder: Path, file: FileInfo | ShardInfo) -> bool:
    """Whether a file is there, byte for byte."""
    return not any(file_faults(folder, file))


def strangers(folder: Path, info: DataSetInfo) -> Iterator[Fault]:
    """Shards and indexes that dataset.json does not list (other tools would read them); a repair's rests."""
    known = _names_of(info)
    for ending in chain.from_iterable(KINDS.values()):
        for path in sorted(folder.glob(f"*{ending}")):
            if path.name not in known:
                yield Fault(path.name, "is no part of this data set; move it away")
    for name in leftovers(folder, info):
        yield Fault(name, "was left by a repair that was killed; verify --repair removes it")


def leftovers(folder: Path, info: DataSetInfo) -> list[str]:
    """Names of what a killed repair has left; the folder may hold other people's files as well."""
    known = _names_of(info)
    temporary = [path.name for path in folder.glob(f"*{TEMPORARY}*")]
    found = [name for name in temporary if name.partition(TEMPORARY)[0] in known]
    return sorted(found + [ASIDE] * (folder / ASIDE).is_dir())


def _names_of(info: DataSetInfo) -> set[str]:
    shards = {shard.name for shard in info.shards}
    beside = {Path(name).with_suffix(ending).name for name in shards for ending in KINDS[info.kind]}
    return {FILE_NAME} | {file.name for file in info.files} | shards | beside
