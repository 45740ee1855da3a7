"""Preflights on several ranks of this machine, each a process that may pretend to be a host of its own."""

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewmill.tools.preflight.options import Options

from tests.support import start_method

LIMIT_S = 120
# Makes a rank different from the others, by patching what it finds out, and says what it is told.
Body = Callable[[int, Path], Options | None]


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def run_preflight(world_size: int, body: Body, folder: Path) -> dict[str, Any]:
    """The report of rank 0 as a tree. Ranks whose body gives None never come.

    Raises:
        AssertionError: a rank hangs; FileNotFoundError: rank 0 made no report.
    """
    folder.mkdir(exist_ok=True)
    run_job(world_size, _enter, body, folder)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return report


def run_job(world_size: int, enter: Callable[..., None], *args: Any) -> None:
    """`enter(rank, *args)` in a process for each rank, with the variables of a launcher without agents.

    Raises:
        AssertionError: a rank hangs.
    """
    context, port = multiprocessing.get_context(start_method()), free_port()
    processes = []
    for rank in range(world_size):
        place = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0"}
        variables = {**os.environ, **place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(context.Process(target=_as_rank, args=(variables, enter, rank, *args)))
        processes[-1].start()
    for process in processes:
        process.join(LIMIT_S)
        hung = process.exitcode is None
        process.kill()
        assert not hung, "a rank waits for ever"


def _as_rank(variables: dict[str, str], enter: Callable[..., None], *args: Any) -> None:
    os.environ.clear()
    os.environ.update(variables)
    import torch

    torch.set_num_threads(1)
    enter(*args)


def _enter(rank: int, body: Body, folder: Path) -> None:
    from viewmill.tools.preflight import run
    from viewmill.tools.preflight.meeting import open_meeting

    run.host_name = lambda: f"host{rank}"
    options = body(rank, folder)
    if options is None:
        return
    report = run.preflight(options, open_meeting(options.patience_s))
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report.tree()), encoding="utf-8")


def lines_of(report: dict[str, Any], check: str) -> list[dict[str, str]]:
    return [line for line in report["verdicts"] if line["check"] == check]


def bad_hosts(report: dict[str, Any], check: str, status: str = "fail") -> set[str]:
    return {line["host"] for line in lines_of(report, check) if line["status"] == status}
