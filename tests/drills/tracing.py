"""Runs of a program under strace, which can kill it or fail it at any of its system calls."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def strace_command() -> list[str]:
    """The begin of a command that runs another under strace; skips the test where that is impossible."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace processes here")
    return [strace, "-f", "-y"]  # with --seccomp-bpf, release 6.1 injects nothing


def environment() -> dict[str, str]:
    """The same calls in every run: no byte code is written, no hash is random."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


def recorded_calls(run: list[str], log: Path, names: tuple[str, ...], folder: Path) -> list[tuple[str, int]]:
    """Runs a program; its (system call, number among those of its name) that touch a folder.

    Only the first thread counts: strace counts by thread, and one worker is one, where shards fit a slab.
    """
    trace = [*strace_command(), "-o", str(log), "-e", "trace=" + ",".join(names), *run]
    subprocess.run(trace, check=True, env=environment(), cwd=ROOT)
    seen: dict[str, int] = {}
    found: list[tuple[str, int]] = []
    first = log.read_text().split(maxsplit=1)[0]
    for line in log.read_text().splitlines():
        match = re.match(r"(\d+) +(\w+)\((.*)", line)
        if match and match[1] == first:
            seen[match[2]] = seen.get(match[2], 0) + 1
            if str(folder) in match[3]:
                found.append((match[2], seen[match[2]]))
    return found


def run_with_fault(run: list[str], name: str, number: int, fault: str) -> "subprocess.CompletedProcess[str]":
    """Runs a program whose call `name` meets `fault` the `number`-th time: 'signal=KILL', 'error=EIO'."""
    inject = [*strace_command(), "-o", os.devnull, "-e", f"trace={name}"]
    inject += ["-e", f"inject={name}:{fault}:when={number}", *run]
    return subprocess.run(inject, env=environment(), cwd=ROOT, capture_output=True, text=True)
