"""`bench memory`: peaks of a rank's memory by ZeRO stage, world size and accumulation, beside a formula."""

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from torch.multiprocessing.spawn import start_processes
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.deepspeed_settings import MAX_LIVE, REDUCE_BUCKET
from viewmill.tools.bench.fingerprint import fingerprint
from viewmill.tools.bench.memory import MIB
from viewmill.tools.bench.memory_rank import Counted, Job, count, measure_rank, plain_malloc

STAGES, WORLD_SIZES, ACCUMULATIONS = (0, 1, 2, 3), (1, 2, 4), (1, 4, 16)


def run(
    *,
    backbone: str = "vit_small_patch16_224",
    sizes: Sequence[int] = (224, 224),
    micro_batch: int = 2,
    stages: Sequence[int] = STAGES,
    world_sizes: Sequence[int] = WORLD_SIZES,
    accumulations: Sequence[int] = ACCUMULATIONS,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains HyDeS with AdamW in float32 for a few steps of random views, a process a rank, on the CPU.

    Every stage at every world size with one micro-batch a step; then, at stage 0 on one rank, several
    micro-batches a step: the global batch grows, the micro-batch does not. A rank has one thread.

    Args:
        backbone: timm's name of a network without BatchNorm.
        sizes: of the views, pixels; two or more, as HyDeS compares the views of an image.
        micro_batch: images of a rank's forward.

    Returns:
        JSON-able: what was counted; per measurement what all ranks and the formula say, MiB; fingerprint.

    Raises:
        ValueError: a number below 1, one view alone, no such stage or backbone.
    """
    if len(sizes) < 2:
        raise ValueError(
            f"--size {' '.join(map(str, sizes))}: is one view an image; give --size twice or more"
        )
    if min(micro_batch, *world_sizes, *accumulations) < 1 or micro_batch * min(world_sizes) < 2:
        raise ValueError("need a micro-batch, world sizes and accumulations >= 1, and 2 images a step")
    tell = progress or (lambda _: None)
    cells = [(stage, world_size, 1) for world_size in world_sizes for stage in stages]
    cells += [(0, 1, many) for many in accumulations if (0, 1, many) not in cells]
    rows: list[dict[str, Any]] = []
    counted: Counted | None = None
    for stage, world_size, accumulation in cells:
        tell(f"stage {stage}, {world_size} ranks, {accumulation} micro-batches")
        tree = config_of(backbone, micro_batch, stage, world_size, accumulation)
        job = Job(tree.model_dump(mode="json"), tuple(sizes), world_size)
        counted = counted or count(job)
        rows.append(
            {
                "stage": stage,
                "world_size": world_size,
                "accumulation": accumulation,
                "vectors": micro_batch * accumulation * world_size * len(sizes),
                "formula_mib": formula(counted, stage, world_size, accumulation),
                "ranks_mib": ranks_of(job),
            }
        )
    assert counted is not None
    settings = {"backbone": backbone, "sizes": list(sizes), "micro_batch": micro_batch, "method": "hydes"}
    return {
        "bench": "memory",
        "settings": settings,
        "counted_mib": counted._asdict(),
        "rows": rows,
        "fingerprint": fingerprint(),
    }


def config_of(backbone: str, micro_batch: int, stage: int, world_size: int, accumulation: int) -> RunConfig:
    tree = {
        "epochs": 1,
        "batch_size": micro_batch * world_size * accumulation,
        "accumulation": accumulation,
        "device": "cpu",
        "model": {"backbone": backbone},
        "zero": {"stage": stage},
        "optimizer": {"lr": 1e-4},
    }
    return config_from(tree, where="bench memory")


def ranks_of(job: Job) -> list[dict[str, float]]:
    """What each rank has seen, in their order."""
    with plain_malloc(), tempfile.TemporaryDirectory() as folder:
        # Forks of a process that has imported everything and done nothing: imports take longer than steps.
        multiprocessing.set_forkserver_preload(["viewmill.tools.bench.memory_rank", "deepspeed"])
        start_processes(measure_rank, (job, folder), job.world_size, start_method="forkserver")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(job.world_size)]


def formula(counted: Counted, stage: int, world_size: int, accumulation: int) -> dict[str, float]:
    """MiB that a rank holds between two steps, and at most within one; see engine/README.md.

    w stands for the bytes of the weights in float32, A for the activations of a micro-batch, W for the ranks.
    AdamW, float32. Sums over all tensors; a peak is that of the phase that takes most.
    """
    w, share = counted.weights, counted.weights / world_size
    bucket = min(w, 4 * REDUCE_BUCKET / MIB)
    gathered = min(w, 4 * MAX_LIVE / MIB)
    states = {0: 3 * w, 1: w + 3 * share, 2: w + 3 * share, 3: 5 * share + bucket}
    # As the backward begins: everything is kept, and the head has its gradient.
    backward = counted.activations + counted.head + (gathered if stage == 3 else 0)
    # As the optimiser moves the weights: gradients and AdamW's own intermediate results.
    update = {0: w, 1: max(bucket + share, 4 * share), 2: max(bucket + share, 4 * share), 3: 3 * share}
    # Gradients of the micro-batches before, summed, which at stage 3 are cut and counted above.
    carried = w if accumulation > 1 and stage < 3 else 0
    held = states[stage] + accumulation * counted.views
    return {"held": held, "step_peak": held + carried + max(backward, update[stage])}


def table(result: dict[str, Any]) -> Table:
    """The figures of a result, for the terminal."""
    settings, counted = result["settings"], result["counted_mib"]
    shown = Table(
        title=f"MiB of a rank: {settings['backbone']}, {settings['micro_batch']} images of views "
        f"{settings['sizes']}, weights {counted['weights']:.0f}, activations {counted['activations']:.0f}"
    )
    for heading in ("stage", "ranks", "micro-batches", "N", "peak", "formula", "peak / formula", "held"):
        shown.add_column(heading, justify="right")
    for row in result["rows"]:
        peak = max(rank["step_peak"] for rank in row["ranks_mib"])
        held = max(rank["held"] for rank in row["ranks_mib"])
        wanted = row["formula_mib"]["step_peak"]
        cells = (row["stage"], row["world_size"], row["accumulation"], row["vectors"])
        shown.add_row(*map(str, cells), f"{peak:.0f}", f"{wanted:.0f}", f"{peak / wanted:.2f}", f"{held:.0f}")
    return shown
