"""The beton row of `bench convert`: our command beside FFCV's DatasetWriter, each a program started anew."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table
from viewmill.tools.bench.convert_peers import files_below
from viewmill.tools.bench.reencode import run_program
from viewmill.tools.bench.spread import medians, spread

OURS, THEIRS = "convert --format ffcv --resize", "FFCV DatasetWriter"
GOAL = 1.0  # of its speed
# As FFCV's guide has it: an indexed data set of pictures, a field that shrinks and encodes them.
PROGRAM = """
import json, sys
from PIL import Image
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

class Pictures:
    def __init__(self, files):
        self.files = files
    def __len__(self):
        return len(self.files)
    def __getitem__(self, number):
        with Image.open(self.files[number]) as image:
            return image.convert("RGB"), number

asked = json.load(open(sys.argv[1]))
image = RGBImageField(write_mode="jpg", max_resolution=asked["side"], jpeg_quality=asked["quality"])
fields = {"image": image, "label": IntField()}
writer = DatasetWriter(asked["target"], fields, num_workers=asked["workers"])
writer.from_indexed_dataset(Pictures(asked["files"]), chunksize=16)
"""


def run(
    source: Path, *, side: int, quality: int, workers: int, repeats: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measures both in turn, `repeats` times, start and imports of each program included.

    Both are measured with a single image as well: the difference over the other images is the CPU time an
    image. FFCV's writer encodes every image anew and writes one file; ours keeps those that are small enough,
    hashes, decodes the rest, and writes shards with a manifest.

    Args:
        source: a folder of images, all of which Pillow decodes. side: of the longer side, pixels.
        quality: of the JPEGs, 1 to 100. workers: processes of both.

    Returns:
        JSON-able: settings, peers (seconds, CPU seconds, peak MiB, written bytes), single (the same of one
        image), cpu_ms_per_image, ratio, goal.

    Raises:
        RuntimeError: a program failed; ValueError: one file only.
    """
    files = [str(Path(path).absolute()) for path in files_below(source)]
    if len(files) < 2:
        raise ValueError(f"{source}: {len(files)} files; --ffcv needs some hundred to tell anything")
    whole: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    alone: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        one = Path(folder)
        (one / Path(files[0]).name).symlink_to(files[0])
        for number in range(repeats):
            tell(f"betons, round {number + 1} of {repeats}")
            for rows, where, some in ((alone, one, files[:1]), (whole, source, files)):
                rows[OURS].append(measure_ours(where, side, quality, workers))
                rows[THEIRS].append(measure_theirs(some, side, quality, workers))
    peers = {name: medians(rows) for name, rows in whole.items()}
    single = {name: medians(rows) for name, rows in alone.items()}
    per_image = {
        name: 1000 * (peers[name]["cpu_seconds"] - single[name]["cpu_seconds"]) / (len(files) - 1)
        for name in peers
    }
    return {
        "settings": {"max_side": side, "quality": quality, "workers": workers},
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


def measure_ours(source: Path, side: int, quality: int, workers: int) -> dict[str, float]:
    """Our command on the folder."""
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        target = Path(folder) / "dataset"
        command = [sys.executable, "-m", "viewmill.tools.cli", "convert", str(source), str(target)]
        command += ["--format", "ffcv", "--beton-images", "jpeg", "--resize", f"max={side}"]
        found = run_program([*command, "--quality", str(quality), "--workers", str(workers)])
        return found | {"written_bytes": float(_bytes_of(target))}


def measure_theirs(files: list[str], side: int, quality: int, workers: int) -> dict[str, float]:
    """FFCV's writer on the files."""
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        target, asked = Path(folder) / "all.beton", Path(folder) / "asked.json"
        settings = {"files": files, "target": str(target), "side": side, "quality": quality}
        asked.write_text(json.dumps({**settings, "workers": workers}), encoding="utf-8")
        found = run_program([sys.executable, "-c", PROGRAM, str(asked)])
        return found | {"written_bytes": float(_bytes_of(Path(folder)))}


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.beton"))


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
    shown.add_row("betons: its time over ours (goal)", f"{found['speed']:.2f} {goal}", f"{found['cpu']:.2f}")
    shown.add_row("betons, an image more, starts left out", "", f"{found['cpu_per_image']:.2f} {goal}")
