"""`bench train`: what a run takes beside the bare steps of its training, on one rank of a CPU."""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.loading import loader_options
from viewmill.engine.recipe_file import apply_override
from viewmill.engine.samples import order_of_run
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world
from viewmill.pipelines.loader import Loader
from viewmill.shards.manifest import Dataset
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.goals import TRAIN
from viewmill.tools.bench.spread import medians, spread
from viewmill.tools.bench.train_peers import BareStep, Blocks, Round, ViewsAlone

# What DESIGN asks for: the overhead as a share of the bare step.


def run(
    data: str,
    *,
    method: str = "hydes",
    backbone: str = "resnet18",
    view_preset: str = "hydes",
    batch_size: int = 8,
    steps: int = 100,
    block: int = 20,
    repeats: int = 3,
    threads: int = 2,
    overrides: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains a run as `viewmill train` does, and in turn with it, block by block, bare steps on its batches.

    The loop has loader, DeepSpeed (stage 0, float32), the check for a non-finite gradient, sentinels, lines
    and TensorBoard every 10 steps, the teacher that follows, and a checkpoint in each round, written behind
    the training. See `BareStep` and `Blocks` for what the bare step lacks and how time is counted.

    Args:
        data: a data set of JPEGs, at least a batch.
        steps: of a round; a checkpoint is written every so many steps.
        block: steps on either side before it is the other's turn; `steps` is a multiple.
        overrides: `key=value` settings of the run.

    Returns:
        JSON-able: settings; ms of a step of loop and bare (wall, processor, wait for data), and processor ms
        of its views alone; overheads; seconds that training waited for each checkpoint; load, fingerprint.

    Raises:
        ValueError: numbers that do not fit each other. ConfigError: settings that the run refuses.
    """
    if min(batch_size, steps, block, repeats, threads) < 1 or steps % block:
        raise ValueError(f"{steps} steps in blocks of {block}, {repeats} rounds: all >= 1, no rest")
    warm_up = block * -(-steps // (2 * block))
    tree: dict[str, Any] = {
        "epochs": warm_up + repeats * steps,  # an epoch has a step at least
        "max_steps": warm_up + repeats * steps,
        "batch_size": batch_size,
        "device": "cpu",
        "torch_threads": threads,
        "model": {"backbone": backbone, "channels_last": True},
        "method": {"name": method},
        "views": {"preset": view_preset, "num_threads": threads},
        "checkpoint": {"every_epochs": None, "every_steps": steps},
    }
    for override in overrides:
        apply_override(tree, override)
    config = config_from(tree, where="bench train")
    tell, load_before = progress or (lambda _: None), os.getloadavg()
    tell("warming up")
    rounds, stalls = _measure(data, config, warm_up=warm_up, steps=steps, block=block, tell=tell)
    return {
        "bench": "train",
        "settings": config.model_dump(mode="json"),
        "steps": steps,
        "block": block,
        "repeats": repeats,
        **figures(rounds),
        "checkpoint_stalled_s": {
            name: medians([{"s": one} for one in found]) for name, found in stalls.items()
        },
        "goals": TRAIN,
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "fingerprint": fingerprint(),
    }


def _measure(
    data: str, config: RunConfig, *, warm_up: int, steps: int, block: int, tell: Callable[[str], None]
) -> tuple[list[Round], dict[str, list[float]]]:
    """The rounds, and seconds that training waited for checkpoints behind it and for those it waits for."""
    spec, world = resolve_views(config), start_world("cpu")
    torch.set_num_threads(config.torch_threads or 1)
    try:
        with tempfile.TemporaryDirectory() as folder, Dataset.open(data) as dataset:
            options = loader_options(config, World(0, 1, 0, world.device), order_of_run(config, dataset))
            with Loader(dataset, spec, config.batch_size, **options) as loader:
                blocks = Blocks(
                    BareStep(config, spec),
                    ViewsAlone(loader),
                    warm_up=warm_up,
                    steps=steps,
                    block=block,
                    tell=tell,
                )
                train(config, data, Path(folder) / "run", world=world, watch=blocks)
            lines = read_lines(Path(folder) / "run" / "events.jsonl")
    finally:
        stop_world(world)
    written = [line for line in lines if line["event"] == "checkpoint"]
    last = config.max_steps
    behind = [line["stalled_s"] for line in written if line["step"] % steps == 0 and line["step"] != last]
    waited = [line["stalled_s"] for line in written if line["step"] % steps or line["step"] == last]
    return blocks.rounds, {"behind": behind, "waited_for": waited}


def figures(rounds: list[Round]) -> dict[str, Any]:
    """Medians of a step's milliseconds; the loop's overheads by ratios of medians, their ranges by rounds."""
    loop = medians([_ms(one.loop._asdict()) for one in rounds])
    bare = medians([_ms(one.bare._asdict()) for one in rounds])
    views = medians([_ms({"cpu": one.views_cpu}) for one in rounds])
    of_medians = overheads(loop, bare, views["cpu_ms"])
    of_rounds = [
        overheads(_ms(one.loop._asdict()), _ms(one.bare._asdict()), 1000 * one.views_cpu) for one in rounds
    ]
    return {
        "peers": {"loop": loop, "bare": bare, "views alone": views},
        "overhead": {
            name: {"share": share, "range": [min(found), max(found)]}
            for name, share in of_medians.items()
            if (found := [one[name] for one in of_rounds])
        },
    }


def overheads(loop: dict[str, Any], bare: dict[str, Any], views_cpu_ms: float) -> dict[str, float]:
    """How much longer a step of the loop is than a bare one, as shares of the bare one."""
    return {
        "wall": loop["wall_ms"] / bare["wall_ms"] - 1,
        "wall without data wait": (loop["wall_ms"] - loop["wait_ms"]) / bare["wall_ms"] - 1,
        "processor": loop["cpu_ms"] / bare["cpu_ms"] - 1,
        "processor without views": (loop["cpu_ms"] - views_cpu_ms) / bare["cpu_ms"] - 1,
    }


def _ms(seconds: dict[str, float]) -> dict[str, float]:
    return {f"{name}_ms": 1000 * value for name, value in seconds.items()}


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, peers = result["settings"], result["peers"]
    shown = Table(
        title=f"The loop beside bare steps: {settings['method']['name']}, {settings['model']['backbone']}, "
        f"{settings['views']['preset']}, batch {settings['batch_size']}, "
        f"{settings['torch_threads']} threads, medians of {result['repeats']} x {result['steps']} steps"
    )
    for heading in ("ms a step", "wall", "processor", "wait for data"):
        shown.add_column(heading, justify="left" if heading == "ms a step" else "right")
    shown.add_row("loop", *(spread(peers["loop"], f"{name}_ms", 1) for name in ("wall", "cpu", "wait")))
    shown.add_row("bare", *(spread(peers["bare"], f"{name}_ms", 1) for name in ("wall", "cpu")), "")
    shown.add_row("views alone", "", spread(peers["views alone"], "cpu_ms", 1), "")
    for name, found in result["overhead"].items():
        goal = f" (<= {TRAIN['goal']:.0%}, moonshot {TRAIN['moonshot']:.0%})" if name == "wall" else ""
        low, high = found["range"]
        shown.add_row(f"overhead: {name}", f"{found['share']:.1%} ({low:.1%} to {high:.1%}){goal}")
    for name, what in (("behind", "behind training"), ("waited_for", "waited for")):
        stalls = result["checkpoint_stalled_s"][name]
        shown.add_row(f"a checkpoint {what}", f"stalls {1000 * stalls['s']:.0f} ms")
    return shown
