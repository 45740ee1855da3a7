"""`viewmill train --preflight`: the ranks of a training look at their machines before they begin."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from viewmill.engine.world import COLLECTIVE_TIMEOUT
from viewmill.tools.preflight.meeting import Meeting
from viewmill.tools.preflight.options import Options
from viewmill.tools.preflight.run import LEAVING_S, preflight
from viewmill.tools.preflight.verdict import FAIL

FIT, HEARD = "fit", "heard"
PASSED = "viewmill-preflight-passed"  # in the job's store: a later attempt of the same agents need not look


def are_fit(options: Options, meeting: Meeting, show: Callable[[dict[str, Any]], None]) -> bool:
    """Whether no check fails, the same on all ranks; rank 0 shows the report first.

    Ranks that torchrun starts again after a failure of the training do not look again: its store knows that
    they were fit.

    Args:
        show: takes `Report.tree()`.

    Raises:
        RuntimeError: rank 0 is not heard of; or this rank came too late, and the others went on.
    """
    if meeting.of_job.check([PASSED]):
        return True
    report = preflight(options, meeting)
    if report is not None:
        show(report.tree())
        is_fit = report.status != FAIL
        if is_fit:
            meeting.of_job.set(PASSED, "1")
        meeting.announce(FIT, {"is_fit": is_fit})
        if not is_fit:  # this process ends, and the store with it
            meeting.hear(HEARD, [rank for rank in report.hosts if rank], time.monotonic() + LEAVING_S)
        return is_fit
    is_fit = bool(meeting.listen(FIT, options.patience_s)["is_fit"])
    meeting.tell(HEARD, {})
    return is_fit


def store_of_training(meeting: Meeting) -> Any:
    """Where the ranks meet again to train: rank 0 listens on the one port that the launcher named."""
    meeting.of_job.set_timeout(COLLECTIVE_TIMEOUT)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"viewmill-training-{attempt}", meeting.of_job)  # type: ignore[attr-defined]
