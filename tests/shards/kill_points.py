"""Converts a folder again and again, killed before every change of a file; run as a process of its own.

Arguments: the folder, one to work in, and the format. Prints, as JSON, how many points there were and those
after which a rerun gave other files.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewmill.shards.conversion.journal import PLAN
from viewmill.shards.conversion.options import Options
from viewmill.shards.convert import convert_with

from tests.shards.pictures import tree_hashes

# Raised before the operation: files opened, renamed, removed, linked; folders made, removed.
OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink")


def run(source: Path, dataset: Path) -> None:
    convert_with(source, dataset, Options(shard_bytes=12_000, format=sys.argv[3]))


def killed_at(point: int, source: Path, dataset: Path) -> bool:
    """Whether a child that dies before its change number `point` of the data set got that far."""
    child = os.fork()
    if child == 0:
        sys.addaudithook(killer(point, str(dataset)))
        run(source, dataset)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def killer(point: int, folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills this process before its change number `point` of the folder.

    Operations that change nothing are not counted: whether a kill comes before or after one, the files that
    it leaves are the same.
    """
    seen = [0]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not str(arguments[event == "os.symlink"]).startswith(folder):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        seen[0] += 1
        if seen[0] == point:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


def finished(source: Path, dataset: Path) -> dict[str, str] | None:
    """The files after a rerun in a child of its own; None if it failed."""
    child = os.fork()
    if child == 0:
        if not (dataset / "dataset.json").exists() or (dataset / PLAN).exists():
            run(source, dataset)  # what a user would do; a finished data set is refused
        os._exit(0)
    return tree_hashes(dataset) if os.waitpid(child, 0)[1] == 0 else None


def main(source: Path, folder: Path) -> None:
    expected = finished(source, folder / "whole")
    point, wrong = 0, []
    while True:
        point += 1
        dataset = folder / "killed"
        if not killed_at(point, source, dataset):
            break
        if finished(source, dataset) != expected:
            wrong.append(point)
        shutil.rmtree(dataset)
    print(json.dumps({"points": point - 1, "files": len(expected or {}), "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
