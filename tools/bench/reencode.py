"""The re-encode row of `bench convert`: our command beside img2dataset, each a program started anew."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewmill.tools.bench.convert_peers import files_below
from viewmill.tools.bench.goals import REENCODE
from viewmill.tools.bench.programs import compare, run_program

OURS, THEIRS = "convert --resize", "img2dataset"
THREADS = (1, 4, 16)  # of a process of img2dataset; the fastest is taken
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
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as alone:
        (Path(alone) / files[0].name).symlink_to(files[0])

        def ours(whole: bool) -> dict[str, float]:
            folder, count = (source, len(files)) if whole else (Path(alone), 1)
            return measure_ours(folder, count, side, quality, workers)

        def theirs(whole: bool) -> dict[str, float]:
            return measure_theirs(files if whole else files[:1], python, side, quality, workers, best)

        figures = compare({OURS: ours, THEIRS: theirs}, len(files), repeats, tell)
    return {
        "settings": {"max_side": side, "quality": quality, "workers": workers, "threads": best},
        "versions": versions,
        "seconds_by_threads": seconds,
        **figures,
        "goal": REENCODE,
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
