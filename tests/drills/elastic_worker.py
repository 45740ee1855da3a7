"""A rank that looks at its machine and sums with the others: -m tests.drills.elastic_worker FOLDER NAME.

It leaves FOLDER/NAME-START.json at each of its starts. Where FOLDER/NAME-START.fails is put, it fails; where
FOLDER/end is, it ends well; else it waits, as a rank that trains.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from viewmill.engine.telemetry import replace_text
from viewmill.engine.world import start_world, stop_world
from viewmill.tools.preflight import before_training
from viewmill.tools.preflight.meeting import open_meeting
from viewmill.tools.preflight.options import Options


def main(folder: Path, name: str) -> int:
    torch.set_num_threads(1)
    (folder / f"{name}.boot").write_text(name)
    before_training.BOOT_ID = folder / f"{name}.boot"  # each stands for a machine of its own
    start = len(list(folder.glob(f"{name}-*.json")))
    shown: list[dict[str, Any]] = []
    meeting = open_meeting(60)
    is_fit = before_training.are_fit(Options(threads=1), meeting, shown.append)
    world = start_world("cpu", before_training.store_of_training(meeting))
    total = torch.tensor(float(meeting.rank + 1))
    dist.all_reduce(total)
    told = {"is_fit": is_fit, "reports": len(shown), "sum": float(total), "round": meeting.round}
    told |= {"restarts": os.environ["TORCHELASTIC_RESTART_COUNT"], "rank": meeting.rank, "pid": os.getpid()}
    replace_text(folder / f"{name}-{start}.json", json.dumps(told))
    while not (folder / "end").exists():
        if (folder / f"{name}-{start}.fails").exists():
            return 1
        time.sleep(0.05)
    stop_world(world)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
