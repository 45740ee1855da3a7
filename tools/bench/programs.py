"""Programs compared as they are run: each started anew, with its imports, its processes and their memory."""

import ctypes
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from rich.table import Table
from viewmill.tools.bench.convert_peers import MIB
from viewmill.tools.bench.memory import peaks_of_descendants
from viewmill.tools.bench.spread import medians, spread

POLL_S = 0.05
_SET_CHILD_SUBREAPER = 36
Measure = Callable[[bool], dict[str, float]]  # of all images, or of a single one


def compare(
    measures: dict[str, Measure], images: int, repeats: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measures two programs in turn, `repeats` times, with all images and with one.

    Starting takes a program longer than some hundred images: the difference over the other images is the CPU
    time an image.

    Args:
        measures: by name, ours first, then the peer's.
        images: how many all are.

    Returns:
        JSON-able: peers (medians of what is measured), single (the same of one image), cpu_ms_per_image,
        ratio (the peer's over ours, by the clock, by CPU, by CPU an image).
    """
    whole: dict[str, list[dict[str, float]]] = {name: [] for name in measures}
    alone: dict[str, list[dict[str, float]]] = {name: [] for name in measures}
    for number in range(repeats):
        tell(f"{' and '.join(measures)}, round {number + 1} of {repeats}")
        for name, measure in measures.items():
            alone[name].append(measure(False))
        for name, measure in measures.items():
            whole[name].append(measure(True))
    peers = {name: medians(rows) for name, rows in whole.items()}
    single = {name: medians(rows) for name, rows in alone.items()}
    per_image = {
        name: 1000 * (peers[name]["cpu_seconds"] - single[name]["cpu_seconds"]) / (images - 1)
        for name in peers
    }
    ours, theirs = measures
    return {
        "peers": peers,
        "single": single,
        "cpu_ms_per_image": per_image,
        "ratio": {
            "speed": peers[theirs]["seconds"] / peers[ours]["seconds"],
            "cpu": peers[theirs]["cpu_seconds"] / peers[ours]["cpu_seconds"],
            "cpu_per_image": per_image[theirs] / per_image[ours],
        },
    }


def run_program(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Seconds, CPU seconds and peak MiB of a program with all processes that it starts.

    CPU seconds are those of processes too that the program leaves to itself, such as the one that its workers
    are forks of; the peak is the sum of each process's own.

    Raises:
        RuntimeError: it failed; the message ends in its last line.
    """
    here = {child.pid for child in psutil.Process().children()}
    with _taking_in_orphans():
        found = _run(command, environment)
        return found | {"cpu_seconds": found["cpu_seconds"] + _cpu_of_orphans(here)}


def _run(command: list[str], environment: dict[str, str] | None) -> dict[str, float]:
    began, peaks = time.perf_counter(), dict[int, int]()
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        while True:
            # Not process.wait: it throws away the CPU time of the program and of those it waited for.
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            peaks |= peaks_of_descendants(process.pid)
            time.sleep(POLL_S)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"{command[0]} ended with code {process.returncode}: {last}")
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "peak_mib": sum(peaks.values()) / MIB}


@contextmanager
def _taking_in_orphans() -> Iterator[None]:
    """What a program leaves behind is this process's child meanwhile, to be waited for. Source: prctl(2)."""
    system = ctypes.CDLL(None, use_errno=True)
    if system.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl: what programs leave behind cannot be counted")
    try:
        yield
    finally:
        system.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _cpu_of_orphans(here: set[int]) -> float:
    """CPU seconds of children that were not here before, and of those that they waited for, once all end."""
    cpu = 0.0
    while orphans := [child.pid for child in psutil.Process().children() if child.pid not in here]:
        _, _, usage = os.wait4(orphans[0], 0)
        cpu += usage.ru_utime + usage.ru_stime
    return cpu


def add_rows(shown: Table, result: dict[str, Any], what: str) -> None:
    """The figures of a comparison, below those of the other peers; what: it is of, for people."""
    shown.add_section()
    settings = result["settings"]
    for name, figures in result["peers"].items():
        shown.add_row(
            f"{name}, longer side {settings['max_side']}, quality {settings['quality']}",
            spread(figures, "seconds", 2),
            spread(figures, "cpu_seconds", 2),
            spread(figures, "peak_mib", 0),
        )
    found, goal = result["ratio"], f"(>= {result['goal']})"
    shown.add_row(
        f"{what}: its time over ours (goal)", f"{found['speed']:.2f} {goal}", f"{found['cpu']:.2f} {goal}"
    )
    shown.add_row(f"{what}, an image more, starts left out", "", f"{found['cpu_per_image']:.2f} {goal}")
