"""`viewmill train --preflight`: the ranks of a training look at their machines before they begin."""

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from viewmill.engine.world import COLLECTIVE_TIMEOUT
from viewmill.tools.preflight import run
from viewmill.tools.preflight.meeting import Meeting
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.verdict import FAIL

FIT, HEARD, PLACE, KNOWN = "fit", "heard", "place", "known"
PASSED = "viewmill-preflight-passed"  # in the job's store: the placements that were found fit
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Placement = dict[str, int]  # ranks by machine


def are_fit(options: Options, meeting: Meeting, show: Callable[[dict[str, Any]], None]) -> bool:
    """Whether no check fails, the same on all ranks; rank 0 shows the report first.

    Ranks that torchrun starts again on the machines that were looked at, as many on each, do not look again:
    its store knows that they were fit. On any other set of machines they do.

    Args:
        show: takes `Report.tree()`.

    Raises:
        RuntimeError: rank 0 is not heard of; or this rank came too late, and the others went on.
    """
    if _are_known(options, meeting):
        return True
    report = run.preflight(options, meeting)
    if report is not None:
        show(report.tree())
        is_fit = report.status != FAIL
        if is_fit:
            _keep_passed(options, meeting)
        meeting.announce(FIT, {"is_fit": is_fit})
        if not is_fit:  # this process ends, and the store with it
            until_s = time.monotonic() + run.LEAVING_S
            meeting.hear(HEARD, [rank for rank in report.hosts if rank], until_s)
        return is_fit
    is_fit = bool(meeting.listen(FIT, options.patience_s)["is_fit"])
    meeting.tell(HEARD, {})
    return is_fit


def machine() -> str:
    """This host's name, and what its kernel calls this boot, for a pod keeps its name where it moves."""
    boot = BOOT_ID.read_text(encoding="utf-8").strip() if BOOT_ID.exists() else ""
    return f"{run.host_name()} {boot}".strip()


def _are_known(options: Options, meeting: Meeting) -> bool:
    """Whether these machines were found fit, each with as many ranks; the same on all ranks.

    Raises:
        RuntimeError: rank 0 is not heard of.
    """
    meeting.tell(PLACE, {"machine": machine()})
    if meeting.rank == 0:
        passed = _passed(meeting)
        # The first start of a job waits for nobody here.
        is_known = bool(passed) and _placement(options, meeting) in passed
        meeting.announce(KNOWN, {"is_known": is_known})
    # Rank 0 waits for ranks twice: to name this start, and here.
    return bool(meeting.listen(KNOWN, 3 * options.patience_s)["is_known"])


def _placement(options: Options, meeting: Meeting) -> Placement:
    """Of the ranks that came in time, to rank 0."""
    came = meeting.hear(PLACE, range(meeting.world_size), time.monotonic() + options.patience_s)
    return dict(Counter(place["machine"] for place in came.values()))


def _passed(meeting: Meeting) -> list[Placement]:
    found: list[Placement] = json.loads(meeting.of_job.get(PASSED)) if meeting.of_job.check([PASSED]) else []
    return found


def _keep_passed(options: Options, meeting: Meeting) -> None:
    meeting.of_job.set(PASSED, json.dumps([*_passed(meeting), _placement(options, meeting)]))


def store_of_training(meeting: Meeting) -> Any:
    """Where the ranks meet again to train: rank 0 listens on the one port that the launcher named."""
    meeting.of_job.set_timeout(COLLECTIVE_TIMEOUT)
    return dist.PrefixStore(f"viewmill-training-{meeting.round}", meeting.of_job)  # type: ignore[attr-defined]
