"""Repairs a damaged data set again and again, killed before each change of a file; a process of its own."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from viewmill.shards.verify import Source, verify

from tests.shards.kill_points import killer
from tests.shards.pictures import tree_hashes


def in_a_child(point: int, dataset: Path, source: Path | None) -> int:
    """How a repair in a child ended that dies before its change number `point`; 0 is never."""
    child = os.fork()
    if child == 0:
        if point:
            sys.addaudithook(killer(point, str(dataset)))
        verify(dataset, repair=True, source=None if source is None else Source(source))
        os._exit(0)
    return os.waitpid(child, 0)[1]


def damaged(whole: Path, dataset: Path, source: Path | None) -> Path:
    """A copy that lacks its manifests, and a shard where there is a source."""
    shutil.rmtree(dataset, ignore_errors=True)
    shutil.copytree(whole, dataset)
    names = ["manifest.parquet", "manifest.bin"] + ["train-000000.tar"] * (source is not None)
    for name in names:
        (dataset / name).unlink()
    return dataset


def main(whole: Path, source: Path | None) -> None:
    dataset = damaged(whole, whole.with_name("killed"), source)
    assert in_a_child(0, dataset, source) == 0
    expected, point, wrong = tree_hashes(dataset), 0, []
    while True:
        point += 1
        damaged(whole, dataset, source)
        if in_a_child(point, dataset, source) != signal.SIGKILL:
            break
        if in_a_child(0, dataset, source) or tree_hashes(dataset) != expected:
            wrong.append(point)
    print(json.dumps({"points": point - 1, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
