"""Check `read rate`: what the hosts read of the shards a second, all at once, as in training."""

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import (
    FAIL,
    PASS,
    WARN,
    Seen,
    Verdict,
    bytes_text,
    graded,
    of_hosts,
    passed,
    ranks_of,
)

NAME = "read rate"
# An ImageNet photograph is 110 kB on average: 50 MB/s feed about 450 images/s, less than a GPU takes.
WARN_RATE, FAIL_RATE = 50e6, 5e6  # bytes/s of a host
SLOW_SHARE = 0.5  # of the median host's rate, where there are three and more
LEAST_BYTES = 4 << 20  # fewer tell nothing of a rate
_BLOCK = 4 << 20


def gather(options: Options, rank: int, world_size: int) -> dict[str, Any]:
    """Bytes and seconds of reading shards, from this rank's own place among them on.

    What lies in the page cache is dropped first where the file system allows it: a second run would else tell
    how fast memory is. All ranks read at the same time, as in training.
    """
    from viewmill.shards.storage.mirror import read_info_at
    from viewmill.shards.storage.sources import named_source, tree_at

    source = str(options.data)
    shards = [shard for shard in read_info_at(source).shards if shard.bytes]
    start = len(shards) * rank // world_size
    named = named_source(source)
    count, begin = 0, time.perf_counter()
    for shard in shards[start:] + shards[:start]:
        if isinstance(named, Path):
            blocks = _local_blocks(named / shard.name)
        else:
            tree = tree_at(source)
            places = range(0, shard.bytes, _BLOCK)
            blocks = (len(tree.peek(shard.name, at, min(_BLOCK, shard.bytes - at))) for at in places)
        for size in blocks:
            count += size
            if count >= options.read_bytes or time.perf_counter() - begin >= options.read_s:
                return {"bytes": count, "seconds": time.perf_counter() - begin}
    return {"bytes": count, "seconds": time.perf_counter() - begin}


def judge(seen: Sequence[Seen]) -> list[Verdict]:
    """A host that reads too slowly, by itself or beside the others."""
    rates = {}
    for one in of_hosts(seen):
        ranks = [rank.facts for rank in ranks_of(seen, one.host)]
        if sum(facts["bytes"] for facts in ranks) >= LEAST_BYTES:
            rates[one.host] = sum(facts["bytes"] / facts["seconds"] for facts in ranks)
    if not rates:
        return [passed(NAME, f"not measured: the shards hold less than {bytes_text(LEAST_BYTES)}")]
    middle, verdicts = statistics.median(rates.values()), []
    for host, rate in rates.items():
        status = graded(rate, warn=WARN_RATE, fail=FAIL_RATE)
        if status == PASS and len(rates) >= 3 and rate < SLOW_SHARE * middle:
            status = WARN
        found = f"{bytes_text(rate)}/s; the median host reads {bytes_text(middle)}/s"
        remedy = "look at this host's mount and network, or copy the data set to its own disk"
        verdicts.append(Verdict(NAME, status, host, found, remedy))
    bad = [verdict for verdict in verdicts if verdict.status in (WARN, FAIL)]
    return bad or [passed(NAME, f"{bytes_text(min(rates.values()))}/s on each host and more")]


def _local_blocks(path: Path) -> Iterator[int]:
    """Reads a file in blocks, not from the page cache where that can be; gives their sizes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        while size := len(os.read(handle, _BLOCK)):
            yield size
    finally:
        os.close(handle)
