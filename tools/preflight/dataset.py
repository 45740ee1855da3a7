"""Check `data set`: every rank sees the same description, the same manifest, and shards of the right size."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL, Seen, Verdict, odd_ones, of_hosts, passed, usual

NAME = "data set"
_MANIFEST_BYTES = 4 << 30  # a larger one is not hashed here
_ASKING_THREADS = 16
_NAMED = 3  # shards that a line names


def gather(options: Options) -> dict[str, Any]:
    """Hashes of the description, the samples and the manifest's bytes; shards that are not as stated.

    Raises:
        FileNotFoundError, ShardError, StorageError, ValueError: as `read_info_at`.
    """
    from viewmill.shards.durable import sha256_of
    from viewmill.shards.storage.mirror import read_info_at
    from viewmill.shards.storage.sources import named_source, tree_at

    source = str(options.data)
    info, tree, named = read_info_at(source), tree_at(source), named_source(source)
    manifest = info.file("manifest.bin")
    found = manifest.sha256  # of a URL it is checked when it is fetched
    if isinstance(named, Path) and manifest.bytes <= _MANIFEST_BYTES:
        found = sha256_of(named / manifest.name)

    def size(name: str) -> int | None:
        try:
            return tree.state(name).size
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(_ASKING_THREADS) as threads:
        sizes = list(threads.map(size, [shard.name for shard in info.shards]))
    pairs = zip(info.shards, sizes, strict=True)
    wrong = [[shard.name, shard.bytes, there] for shard, there in pairs if there != shard.bytes]
    return {
        "description": hashlib.sha256(info.to_json().encode("utf-8", "surrogatepass")).hexdigest(),
        "hash": info.data_set_hash,
        "manifest": found,
        "manifest_stated": manifest.sha256,
        "samples": info.num_samples,
        "shards": len(info.shards),
        "wrong": wrong,
    }


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """All ranks see one data set, with the manifest and the shard sizes that its description states."""
    verdicts = _of_other_data(seen)
    for one in of_hosts(seen):
        facts = one.facts
        if facts["manifest"] != facts["manifest_stated"]:
            found = "manifest.bin is not what dataset.json states"
            verdicts.append(
                Verdict(NAME, FAIL, one.host, found, "run there: viewmill verify DATASET --repair")
            )
        if facts["wrong"]:
            named = ", ".join(_shard(*row) for row in facts["wrong"][:_NAMED])
            more = f" and {len(facts['wrong']) - _NAMED} more" if len(facts["wrong"]) > _NAMED else ""
            remedy = "copy the data set there again; to see more: viewmill verify DATASET"
            verdicts.append(Verdict(NAME, FAIL, one.host, f"{named}{more}", remedy))
    facts = seen[0].facts
    counts = f"{facts['samples']:,} samples, shards: {facts['shards']:,}"
    told = f"{counts}, hash {facts['hash'][:12]}, on every rank"
    return verdicts or [passed(NAME, told)]


def _of_other_data(seen: Sequence[Seen]) -> list[Verdict]:
    """A rank whose data set is not that of most."""
    verdicts = []
    for name, text in (("hash", "data set hash"), ("description", "dataset.json")):
        values = {(one.host, one.rank): str(one.facts[name]) for one in seen}
        for (host, rank), value in odd_ones(values).items():
            found = f"rank {rank} has {text} {value[:12]}, the others {usual(values)[:12]}"
            remedy = "give every host the same --data; copy the data set anew where it differs"
            verdicts.append(Verdict(NAME, FAIL, host, found, remedy))
        if verdicts:
            break  # another hash is another description as well
    return verdicts


def _shard(name: str, stated: int, found: int | None) -> str:
    return f"{name} is missing" if found is None else f"{name} has {found} bytes, not {stated}"
