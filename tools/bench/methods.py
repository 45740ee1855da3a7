"""`bench methods`: every method trained for as many steps on the same images; its k-NN beside the floors."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from viewmill.shards.storage.mirror import read_info_at
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import METHODS_Z
from viewmill.tools.bench.result import read_result, result_of


class MethodRun(NamedTuple):
    """What differs between the runs; the rest is set for all alike."""

    recipe: str
    views: str = "hydes"
    images: int = 1  # times the images of a step, and times the epochs: as many steps, of about as much work


RUNS = {
    "hydes": MethodRun("hydes_imagenette"),
    "imsvd": MethodRun("imsvd_imagenette", "imsvd", 2),  # 2 views and not 8
    "distill_prior": MethodRun("distill_prior", "dino_global", 2),
    "distill_streaming": MethodRun("distill_streaming", "dino_global", 2),
    "distill_center": MethodRun("distill_center", "dino_global", 2),
    "distill_batchnorm": MethodRun("distill_batchnorm", "dino_global", 2),
    "distill_sinkhorn": MethodRun("distill_sinkhorn", "dino_global", 2),
}
TASK = "knn@20"


def run(
    data: str,
    on: str,
    folder: Path,
    out: Path,
    *,
    names: tuple[str, ...] = tuple(RUNS),
    size: int = 32,
    batch_size: int = 128,
    epochs: int = 8,
    max_steps: int | None = None,
    threads: int = 2,
    seed: int = 0,
    settings: tuple[str, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains and evaluates each with the commands that anyone would type, one after another.

    `out` is written after every run; one that stands there, of the same settings and data, is not made again.

    Args:
        data: what is trained on, and the labelled bank of k-NN. on: what is classified.
        folder: where the runs' folders go. names: of `RUNS`.
        size: side of the global views, pixels. batch_size, epochs: of 8 views, the schedule's; methods with 2
            have twice as many of both, and so as many steps. max_steps: fewer steps of it.
        settings: `key=value` on top of every recipe.

    Returns:
        JSON-able: settings, rows by name (recipe and overrides, wall and processor seconds, last figures,
        alarms, k-NN beside the untrained backbone and the floors), fingerprint.

    Raises:
        ValueError: a name that is not of `RUNS`; RuntimeError: a command failed.
    """
    if unknown := [name for name in names if name not in RUNS]:
        raise ValueError(f"no run '{unknown[0]}'; there are {', '.join(RUNS)}")
    hashes = [read_info_at(path).data_set_hash for path in (data, on)]
    common = [f"seed={seed}", "checkpoint.every_epochs=null", "log.every_steps=1"]
    common += [f"torch_threads={threads}", f"views.num_threads={threads}"]
    common += [f"max_steps={max_steps}"] if max_steps else []
    result: dict[str, Any] = {
        "bench": "methods",
        "settings": {"size": size, "batch_size": batch_size, "epochs": epochs, "max_steps": max_steps}
        | {"threads": threads, "seed": seed, "settings": list(settings)},
        "rows": _rows_in(out),
        "fingerprint": fingerprint("timm"),
    }
    for number, name in enumerate(names):
        method = RUNS[name]
        work = [f"batch_size={batch_size * method.images}", f"epochs={epochs * method.images}"]
        chosen = [method.recipe, f"views.preset={method.views}@{size}", *work, *common, *settings]
        made_of = {"train": chosen, "data": hashes}
        there = result["rows"].get(name, {})
        if any(there.get(key) != value for key, value in made_of.items()):
            (progress or (lambda _: None))(f"{number + 1} of {len(names)}: {name}")
            result["rows"][name] = made_of | _measured(chosen, data, on, folder / name, threads)
            out.write_text(json.dumps(result_of(result).tree(), indent=2) + "\n", encoding="utf-8")
    return result


def _rows_in(out: Path) -> dict[str, Any]:
    if not out.exists():
        return {}
    rows: dict[str, Any] = read_result(out).figures["rows"]
    return rows


def _measured(chosen: list[str], data: str, on: str, run_folder: Path, threads: int) -> dict[str, Any]:
    """One training and its evaluation."""
    begin, cpu_s, load = time.perf_counter(), _cpu_seconds(), list(os.getloadavg())
    resume = ["--resume"] if run_folder.exists() else []
    _viewmill("train", *chosen, "--data", data, "--out", str(run_folder), *resume)
    seconds, cpu_s = time.perf_counter() - begin, _cpu_seconds() - cpu_s
    words = ["evaluate", str(run_folder), "--train", data, "--on", on, "--tasks", TASK]
    _viewmill(*words, "--num-threads", str(threads))
    summary = json.loads((run_folder / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    scores = next(row for row in summary if row["task"] == TASK)
    metrics = _lines(run_folder / "metrics.jsonl")
    alarms = [line for line in _lines(run_folder / "events.jsonl") if line.get("event") == "alarm"]
    last = metrics[-1]
    return {
        "steps": last["step"],
        "seconds": seconds,
        "cpu_seconds": cpu_s,
        "load_average": load,
        "last": {name: value for name, value in last.items() if isinstance(value, int | float)},
        "alarms": sorted({alarm["name"] for alarm in alarms}),
        "knn": {key: scores[key] for key in ("n", "trained", "untrained", "floors", "z_score")},
    }


def _cpu_seconds() -> float:
    """Of all processors, by the programs that have ended; other programs and pauses do not count."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _viewmill(*words: str) -> None:
    command = [sys.executable, "-m", "viewmill.tools.cli", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"viewmill {' '.join(words)}: ended with code {done.returncode}: {last}")


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    rows = result["rows"]
    floors = next(iter(rows.values()))["knn"]
    shown = Table(
        title=f"k-NN (k = 20) on {floors['n']} images, after as many steps each; untrained "
        f"{floors['untrained']:.1%}, "
        + ", ".join(f"{name.replace('_', ' ')} {value:.1%}" for name, value in floors["floors"].items())
    )
    for heading in ("method", "steps", "processor minutes", "top-1", "z", "alarms"):
        shown.add_column(heading, justify="left" if heading in ("method", "alarms") else "right")
    for name, row in rows.items():
        knn = row["knn"]
        z = "-" if knn["z_score"] is None else f"{knn['z_score']:.1f}"
        learnt = knn["z_score"] is not None and knn["z_score"] >= METHODS_Z
        shown.add_row(
            name,
            str(row["steps"]),
            f"{row['cpu_seconds'] / 60:.1f}",
            f"{knn['trained']:.1%}" + ("" if learnt else " (not learnt)"),
            z,
            ", ".join(row["alarms"]) or "none",
        )
    return shown
