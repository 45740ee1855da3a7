"""The re-encode row of `bench convert`: our command beside img2dataset, each a program started anew."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table
from viewmill.tools.bench.convert_peers import MIB, files_below
from viewmill.tools.bench.memory import peaks_of_descendants
from viewmill.tools.bench.spread import medians, spread

OURS, THEIRS = "convert --resize", "img2dataset"
THREADS = (1, 4, 16)  # of a process of img2dataset; the fastest is taken
GOAL = 1.0  # of its speed
POLL_S = 0.05
# Given as text and not as a file: the file's folder would stand first where its imports are looked for.
DOWNLOAD = "import json, sys; from img2dataset import download; download(**json.loads(sys.argv[1]))"
VERSIONS = (
    "import json; from importlib.metadata import version; "
    "print(json.dumps({name: version(name) for name in ('img2dataset', 'opencv-python-headless')}))"
)


def run(
    source: Path,
    python: Path,
    *,
    side: int,
    quality: int,
    workers: int,
    repeats: int,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Measures both in turn, `repeats` times, start and imports of each program included.

    Starting takes either of them longer than some hundred images, and img2dataset longer than us. So both are
    measured with a single image as well, and the difference over the other images is the CPU time an image.

    img2dataset gets file:// addresses, so no server shares the cores with it, four shards a process, no hash,
    no EXIF, and the number of threads that was fastest in a run of each.

    Args:
        source: a folder of images. python: an interpreter that has img2dataset.
        side: of the longer side, pixels; what is larger is made so large, what is not keeps its bytes.
        quality: of the JPEGs, 1 to 100. Ours keep full chroma from 90 on, those of img2dataset half of it.
        workers: processes of both.

    Returns:
        JSON-able: settings, versions, peers (seconds, CPU seconds, peak MiB, written bytes, refused images),
        seconds_by_threads, single (the same of one image), cpu_ms_per_image, ratio, goal.

    Raises:
        RuntimeError: a program failed, or lost an image.
        ValueError: one file only, from which no time an image follows.
    """
    files = [Path(path).absolute() for path in files_below(source)]
    if len(files) < 2:
        raise ValueError(f"{source}: {len(files)} files; --img2dataset needs some hundred to tell anything")
    versions = json.loads(output_of([str(python), "-c", VERSIONS]))
    seconds = {}
    for threads in THREADS:
        tell(f"{THEIRS} with {threads} threads")
        seconds[threads] = measure_theirs(files, python, side, quality, workers, threads)["seconds"]
    best = min(seconds, key=lambda threads: seconds[threads])
    all_rows: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    single_rows: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as alone:
        (Path(alone) / files[0].name).symlink_to(files[0])
        for number in range(repeats):
            tell(f"re-encoding, round {number + 1} of {repeats}")
            for rows, folder, some in ((single_rows, Path(alone), files[:1]), (all_rows, source, files)):
                rows[OURS].append(measure_ours(folder, len(some), side, quality, workers))
                rows[THEIRS].append(measure_theirs(some, python, side, quality, workers, best))
    peers = {name: medians(rows) for name, rows in all_rows.items()}
    single = {name: medians(rows) for name, rows in single_rows.items()}
    per_image = {
        name: 1000 * (peers[name]["cpu_seconds"] - single[name]["cpu_seconds"]) / (len(files) - 1)
        for name in peers
    }
    return {
        "settings": {"max_side": side, "quality": quality, "workers": workers, "threads": best},
        "versions": versions,
        "seconds_by_threads": seconds,
        "peers": peers,
        "single": single,
        "cpu_ms_per_image": per_image,
        "ratio": {
            "speed": peers[THEIRS]["seconds"] / peers[OURS]["seconds"],
            "cpu": peers[THEIRS]["cpu_seconds"] / peers[OURS]["cpu_seconds"],
            "cpu_per_image": per_image[THEIRS] / per_image[OURS],
        },
        "goal": GOAL,
    }


def measure_ours(source: Path, images: int, side: int, quality: int, workers: int) -> dict[str, float]:
    """Our command on the folder.

    Raises:
        RuntimeError: it failed, or an image is neither sample nor quarantined.
    """
    from viewmill.shards.info import read_info

    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        target = Path(folder) / "dataset"
        command = [sys.executable, "-m", "viewmill.tools.cli", "convert", str(source), str(target)]
        options = ["--resize", f"max={side}", "--quality", str(quality), "--workers", str(workers)]
        found = run_program([*command, *options])
        info = read_info(target)
        if info.num_inputs != images:
            raise RuntimeError(f"{OURS}: {info.num_inputs} inputs of {images}")
        return found | {
            "written_bytes": float(sum(shard.bytes for shard in info.shards)),
            "refused": float(info.num_quarantined),
        }


def measure_theirs(
    files: list[Path], python: Path, side: int, quality: int, workers: int, threads: int
) -> dict[str, float]:
    """img2dataset on the files.

    Raises:
        RuntimeError: it failed, or its reports do not add up to the number of files.
    """
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        listing, target = Path(folder) / "urls.txt", Path(folder) / "shards"
        listing.write_text("".join(f"{path.as_uri()}\n" for path in files), encoding="utf-8")
        settings = {
            "url_list": str(listing),
            "input_format": "txt",
            "output_folder": str(target),
            "output_format": "webdataset",
            "image_size": side,
            "resize_mode": "keep_ratio_largest",
            "resize_only_if_bigger": True,
            "skip_reencode": True,
            "encode_quality": quality,
            "processes_count": workers,
            "thread_count": threads,
            "number_sample_per_shard": -(-len(files) // (4 * workers)),
            "extract_exif": False,
            "compute_hash": None,
        }
        found = run_program([str(python), "-c", DOWNLOAD, json.dumps(settings)], peers_environment())
        reports = [json.loads(path.read_text()) for path in target.glob("*_stats.json")]
        if sum(report["count"] for report in reports) != len(files):
            raise RuntimeError(f"{THEIRS}: its reports count other files than the {len(files)} given")
        return found | {
            "written_bytes": float(sum(tar.stat().st_size for tar in target.glob("*.tar"))),
            "refused": float(sum(report["count"] - report["successes"] for report in reports)),
        }


def peers_environment() -> dict[str, str]:
    """Without our module path, and without a look for a newer release of one of its libraries."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return kept | {"NO_ALBUMENTATIONS_UPDATE": "1"}


def output_of(command: list[str]) -> str:
    """What the peer's interpreter prints.

    Raises:
        RuntimeError: it lacks img2dataset.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=peers_environment(), check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{command[0]}: {reason}; run: {command[0]} -m pip install img2dataset")
    return done.stdout


def run_program(command: list[str], environment: dict[str, str] | None = None) -> dict[str, float]:
    """Seconds, CPU seconds and peak MiB of a program with all processes that it starts.

    CPU seconds lack processes that nobody waited for; the peak is the sum of each process's own.

    Raises:
        RuntimeError: it failed; the message ends in its last line.
    """
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


def add_rows(shown: Table, result: dict[str, Any]) -> None:
    """The figures of a result, below those of the other peers."""
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
        "re-encode: its time over ours (goal)", f"{found['speed']:.2f} {goal}", f"{found['cpu']:.2f} {goal}"
    )
    shown.add_row("re-encode, an image more, starts left out", "", f"{found['cpu_per_image']:.2f} {goal}")
