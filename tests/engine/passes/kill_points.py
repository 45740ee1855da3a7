"""Runs a pass again and again, killed at every batch and before every change of a file; a process of its own.

Arguments: the data set, and a folder to work in. Prints, as JSON, for every kill what the session after it
found, and at which sample it went on.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from viewmill.shards.manifest import Dataset

from tests.engine.passes.small_pass import rows_of, small_pass
from tests.shards.kill_points import killer

SAVE_EVERY = 4


def killing(at_batch: int) -> Callable[[Tensor], Mapping[str, Tensor]]:
    left = [at_batch]

    def embed(images: Tensor) -> Mapping[str, Tensor]:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return rows_of(images)

    return embed


def in_a_child(work: Callable[[], None]) -> bool:
    """Whether the child was killed. No thread is at work here, so a fork is as good as a new process."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def session(data: Path, folder: Path, **options: Any) -> None:
    with Dataset.open(data) as dataset:
        report, found = small_pass(dataset, folder=folder, save_every=SAVE_EVERY, **options)
    told = {name: values.tolist() for name, values in found.items()} | {"resumed at": report.resumed_at}
    folder.with_suffix(".json").write_text(json.dumps(told))


def all_kills(data: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """What was found after a kill at each point, until a session has no such point any more."""
    seen: dict[str, list[dict[str, Any]]] = {"batches": [], "files": []}
    for kind, results in seen.items():
        while True:
            point, folder = len(results) + 1, work / f"{kind}{len(results)}"

            def doomed(kind: str = kind, point: int = point, folder: Path = folder) -> None:
                if kind == "files":
                    sys.addaudithook(killer(point, str(folder) + "/"))
                session(data, folder, embed=killing(point) if kind == "batches" else rows_of)

            if not in_a_child(doomed):
                break
            in_a_child(lambda folder=folder: session(data, folder))  # type: ignore[misc]
            leftover = [path.name for path in folder.iterdir()]
            results.append(json.loads(folder.with_suffix(".json").read_text()) | {"folder": leftover})
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(all_kills(Path(sys.argv[1]), Path(sys.argv[2]))))
