"""Runs `viewmill` in processes of their own, without the seconds that each would take to import torch."""

import contextlib
import io
import multiprocessing
import os
import sys
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import torch.distributed as dist
from viewmill.tools.cli import app
from viewmill.tools.console import run_app

from tests.support import start_method

TIMEOUT_S = 240


def viewmill(*words: str, **variables: str) -> CompletedProcess[str]:
    """What `viewmill WORDS` prints and returns, in a fork of the ranks' server; variables go on top.

    Raises:
        TimeoutError: it takes minutes; it has been ended.
    """
    with TemporaryDirectory() as folder:
        given = ({**os.environ, **variables}, words, folder)
        process = multiprocessing.get_context(start_method()).Process(target=_enter, args=given)
        process.start()
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"viewmill {' '.join(words)} takes more than {TIMEOUT_S} s")
        printed = [(Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err")]
        return CompletedProcess(words, process.exitcode, *printed)


def _enter(variables: dict[str, str], words: tuple[str, ...], folder: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, "out"), (2, "err")):
        # The descriptors, not sys.stdout alone: libraries and child processes print to them.
        opened = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.exit(run_app(app, list(words)))


def viewmill_on_a_rank(rank: int, words: list[str]) -> tuple[int, str]:
    """A body for `run_ranks`: exit code and stderr of `viewmill WORDS` on this rank."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(dist.get_world_size()), "LOCAL_RANK": str(rank)}
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = run_app(app, words)
    return code, errors.getvalue()
