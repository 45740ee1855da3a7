"""A `viewmill` command that goes on in a process of its own, until something happens to it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from viewmill.engine.telemetry import read_lines

# Of the job that these tests may run in themselves.
JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GLOO_SOCKET_IFNAME")
WAIT_S = 400.0  # on a machine that does much else


class Launched:
    """`viewmill WORDS` as from a shell without a job; what it says goes into the file `told`."""

    def __init__(self, words: list[str], told: Path) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in JOB}
        clean |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        self._told = told
        with told.open("wb") as file:
            command = [sys.executable, "-m", "viewmill.tools.cli", *words]
            self.process = subprocess.Popen(command, env=clean, stdout=file, stderr=file)

    def wait_for(self, come: Callable[[], bool]) -> None:
        """Until it has come; the command must not end before."""
        until_s = time.monotonic() + WAIT_S
        try:
            while not come():
                assert self.process.poll() is None, f"it has ended: {self.told()}"
                assert time.monotonic() < until_s, self.told()
                time.sleep(0.05)
        except BaseException:
            self.process.kill()
            raise

    def wait_for_steps(self, run: Path, number: int) -> None:
        """Until so many are logged, and one is saved."""
        log, hint = run / "metrics.jsonl", run / "checkpoints" / "latest"
        self.wait_for(lambda: log.exists() and hint.exists() and len(read_lines(log)) >= number)

    def end(self, within_s: float = WAIT_S) -> int:
        """Waits for its exit code."""
        try:
            return self.process.wait(timeout=within_s)
        finally:
            self.process.kill()

    def told(self) -> str:
        return self._told.read_text(encoding="utf-8")
