"""Indexes a tar in place again and again, killed before every change of a file; a process of its own."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from viewmill.shards.conversion.journal import PLAN
from viewmill.shards.in_place import convert_in_place

from tests.shards.kill_points import killer
from tests.shards.pictures import tree_hashes


def run(tars: Path, dataset: Path) -> None:
    if (dataset / "dataset.json").exists() and not (dataset / PLAN).exists():
        return  # what a user would see: a finished data set
    convert_in_place(tars, dataset)


def in_a_child(point: int, tars: Path, dataset: Path) -> int:
    """How a child ended that dies before its change number `point` on the data set; 0 is never."""
    child = os.fork()
    if child == 0:
        if point:
            sys.addaudithook(killer(point, str(dataset)))
        run(tars, dataset)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def fresh(tar: Path, where: str, folder: Path) -> tuple[Path, Path]:
    """The tars and the data set of one trial; `beside`: in one folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "tars").mkdir(parents=True)
    shutil.copy2(tar, folder / "tars")
    return folder / "tars", folder / ("tars" if where == "beside" else "ds")


def main(tar: Path, where: str, folder: Path) -> None:
    tars, dataset = fresh(tar, where, folder)
    assert in_a_child(0, tars, dataset) == 0
    expected, point, wrong = tree_hashes(dataset), 0, []
    while True:
        point += 1
        tars, dataset = fresh(tar, where, folder)
        if in_a_child(point, tars, dataset) != signal.SIGKILL:
            break
        if in_a_child(0, tars, dataset) or tree_hashes(dataset) != expected:
            wrong.append(point)
    print(json.dumps({"points": point - 1, "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
