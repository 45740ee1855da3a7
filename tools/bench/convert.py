"""`bench convert`: conversion beside plain loops over the same files, time, CPU and memory."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table
from viewmill.tools.bench import beton_writer, reencode
from viewmill.tools.bench.convert_peers import MIB, PEERS, answer, files_below
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import CONVERT
from viewmill.tools.bench.memory import peaks_of_descendants
from viewmill.tools.bench.programs import add_rows
from viewmill.tools.bench.spread import medians, spread

# check: (ours, the plain loop), of PEERS.
PAIRS = {
    "decode": ("convert --check decode", "copy, hash, decode"),
    "header": ("convert --check header", "copy, hash"),
}
# What DESIGN asks for: this share of the plain loop's speed.
POLL_S = 0.05


def run(
    source: Path,
    *,
    repeats: int = 5,
    workers: int = 1,
    img2dataset: Path | None = None,
    ffcv: bool = False,
    max_side: int = 500,
    quality: int = 95,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measures each peer in a process of its own, in turn, `repeats` times.

    Every file is read once before, so that all find it in the page cache. What is written goes below the
    system's temporary folder (TMPDIR). With several workers, their start counts, and the peak is the sum of
    each process's own.

    Args:
        source: a folder of images.
        repeats: processes per peer; the figures are medians over them.
        workers: of the conversion and of the plain loops.
        img2dataset: an interpreter that has it; then re-encoding is measured beside it.
        ffcv: measure writing betons beside FFCV's writer, which must be installed.
        max_side: what re-encoding makes of the longer side, pixels. quality: of its JPEGs.
        progress: told what is measured.

    Returns:
        JSON-able: settings, images, bytes, peers (seconds, CPU seconds, peak MiB), ratios (the share
        of the plain loop's speed, by the clock and by CPU), goals, reencode and betons (None: not measured),
        fingerprint.

    Raises:
        ValueError: a setting below 1, or a folder without files.
    """
    if min(repeats, workers) < 1:
        raise ValueError(f"repeats {repeats}, workers {workers}: both must be at least 1")
    sizes = [len(Path(path).read_bytes()) for path in files_below(source)]
    if not sizes:
        raise ValueError(f"{source}: no file in this folder; give a folder of images")
    tell = progress or (lambda _: None)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in PEERS}
    for number in range(repeats):
        for name in PEERS:
            tell(f"round {number + 1} of {repeats}: {name}")
            measured[name].append(in_a_process(name, source, workers))
    peers = {name: medians(rows) for name, rows in measured.items()}
    reencoded = None
    if img2dataset is not None:
        reencoded = reencode.run(
            source,
            img2dataset,
            side=max_side,
            quality=quality,
            workers=workers,
            repeats=repeats,
            tell=tell,
        )
    betons = None
    if ffcv:
        betons = beton_writer.run(
            source, side=max_side, quality=quality, workers=workers, repeats=repeats, tell=tell
        )
    return {
        "bench": "convert",
        "settings": {"workers": workers},
        "images": len(sizes),
        "bytes": sum(sizes),
        "repeats": repeats,
        "peers": peers,
        "ratios": {check: ratio(peers[ours], peers[plain]) for check, (ours, plain) in PAIRS.items()},
        "goals": CONVERT,
        "reencode": reencoded,
        "betons": betons,
        "fingerprint": fingerprint("xxhash"),
    }


def ratio(ours: dict[str, Any], plain: dict[str, Any]) -> dict[str, float]:
    """The share of the plain loop's speed that ours has, by the clock and by CPU time."""
    return {
        "speed": plain["seconds"] / ours["seconds"],
        "cpu": plain["cpu_seconds"] / ours["cpu_seconds"],
    }


def in_a_process(name: str, source: Path, workers: int) -> dict[str, float]:
    """What `answer` sends, from a fresh process; its peak with those of its workers added.

    Raises:
        RuntimeError: the process ended without an answer.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory(prefix="viewmill-bench-") as folder:
        process = context.Process(target=answer, args=(theirs, name, source, Path(folder), workers))
        process.start()
        theirs.close()
        peaks: dict[int, int] = {}
        try:
            while not ours.poll(POLL_S):
                peaks |= peaks_of_descendants(process.pid or 0)
            found: dict[str, float] = ours.recv()
        except EOFError as error:
            raise RuntimeError(f"{name}: its process ended without an answer; its error is above") from error
        finally:
            process.join()
    peaks.pop(process.pid or 0, None)  # it has sent its own
    return found | {"peak_mib": found["peak_mib"] + sum(peaks.values()) / MIB}


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    images, workers = result["images"], result["settings"]["workers"]
    shown = Table(
        title=f"{images} files, {result['bytes'] / images / 1000:.0f} kB on average, {workers} "
        f"worker{'s' if workers > 1 else ''}, medians of {result['repeats']} (range)"
    )
    for heading in ("peer", "seconds", "CPU seconds", "peak MiB"):
        shown.add_column(heading, justify="left" if heading == "peer" else "right")
    for name, figures in result["peers"].items():
        shown.add_row(
            name,
            spread(figures, "seconds", 2),
            spread(figures, "cpu_seconds", 2),
            spread(figures, "peak_mib", 0),
        )
    for check, found in result["ratios"].items():
        goal = f"(>= {result['goals'][check]})"
        shown.add_row(
            f"{check}: share of the loop's speed (goal)",
            f"{found['speed']:.2f} {goal}",
            f"{found['cpu']:.2f} {goal}",
        )
    if result["reencode"] is not None:
        add_rows(shown, result["reencode"], "re-encode")
    if result["betons"] is not None:
        add_rows(shown, result["betons"], "betons")
    return shown
