"""The beton row of `bench convert`: our command beside FFCV's DatasetWriter, each a program started anew."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from viewmill.tools.bench.convert_peers import files_below
from viewmill.tools.bench.goals import REENCODE
from viewmill.tools.bench.programs import compare, run_program

OURS, THEIRS = "convert --format ffcv --resize", "FFCV DatasetWriter"
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
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as alone:
        (Path(alone) / Path(files[0]).name).symlink_to(files[0])

        def ours(whole: bool) -> dict[str, float]:
            return measure_ours(source if whole else Path(alone), side, quality, workers)

        def theirs(whole: bool) -> dict[str, float]:
            return measure_theirs(files if whole else files[:1], side, quality, workers)

        figures = compare({OURS: ours, THEIRS: theirs}, len(files), repeats, tell)
    return {
        "settings": {"max_side": side, "quality": quality, "workers": workers},
        **figures,
        "goal": REENCODE,
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
