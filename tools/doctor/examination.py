"""A short training of a recipe that is measured from all sides: from settings to a diagnosis."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from viewmill.engine.agreement import from_rank_zero, gather_json, largest
from viewmill.engine.checks import check_batch, resolve_views
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.environment import environment
from viewmill.engine.hardware import peak_memory
from viewmill.engine.samples import order_of_run
from viewmill.engine.stragglers import straggler_table
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World
from viewmill.pipelines.flow.flow import READ_AHEAD
from viewmill.pipelines.orders.positions import steps_per_epoch
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.manifest import Dataset
from viewmill.tools.doctor.arithmetic import model_flops, peak_of
from viewmill.tools.doctor.changes import best, predicted
from viewmill.tools.doctor.collectives import on_stream, timed_collectives
from viewmill.tools.doctor.cores import Elsewhere, cores_of_rank
from viewmill.tools.doctor.diagnosis import Intervals, diagnose, intervals
from viewmill.tools.doctor.loader_alone import LoaderAlone
from viewmill.tools.doctor.rounds import Blocks, Rounds
from viewmill.tools.doctor.stopwatch import Stopwatch
from viewmill.tools.doctor.trials import Trials
from viewmill.tools.planning.images import images_in

TRACED_STEPS = 2


def examine(
    config: RunConfig,
    data: Path | str,
    *,
    world: World,
    rounds: int = 3,
    steps: int = 8,
    trials: bool = True,
    scratch: Path | None = None,
    traces: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Trains by `config`, measures its stages alone and together, says what holds it up; all ranks call it.

    What was trained is thrown away. Nothing is sent to trackers.

    Args:
        rounds: the figures are medians over them. steps: of a round that count.
        trials: other settings are measured too.
        scratch: an existing folder for the run's files, on the disk to be measured and seen by all ranks;
            None: the system's for temporary files.
        traces: an existing folder that gets rank-N.json.gz, a trace of two more steps for Perfetto or Chrome.
        tell: hears what is measured.

    Returns:
        JSON-able, equal on all ranks: settings, world_size, device, images (of a step), data (count and means
        of the data set's images, see `Images`), diagnosis (see `diagnose`), changes (see `predicted`), best,
        arithmetic, ranks (see `Rounds.figures`), stragglers, environment.

    Raises:
        As `train`.
    """
    if min(rounds, steps) < 1:
        raise ValueError(f"{rounds} rounds of {steps} steps: both must be >= 1")
    spec, cores = resolve_views(config), cores_of_rank(world)
    with Dataset.open(data) as dataset, scratch_run(world, scratch) as run:
        order, of_data_set = order_of_run(config, dataset), images_in(dataset)
        check_batch(config, order.num_samples, world.world_size)
        blocks = blocks_of(config, rounds, steps)
        end = blocks.last_step + (TRACED_STEPS if traces else 0)
        per_epoch = steps_per_epoch(order.num_samples, config.batch_size)
        measured = measured_config(config, blocks, end, per_epoch, bool(traces))
        stopwatch = Stopwatch(world.device)
        with LoaderAlone(dataset, order, measured, spec, world) as loader:
            tried = trials_of(config, spec, world, cores, order.num_samples) if trials else Trials()
            with other_work(world) as others, timed_collectives(stopwatch) as traffic:
                watch = Rounds(stopwatch, traffic, loader, blocks, tried, tell)
                tell("warming up")
                train(measured, data, run, world=world, watch=watch, spans=stopwatch)
        lines = from_rank_zero(world, lambda: read_lines(run / "ranks.jsonl"))
        if traces is not None and world.rank == 0:
            keep_traces(run, traces)
    on_device = config.model_copy(update={"device": world.device.type})
    needed = from_rank_zero(world, lambda: model_flops(on_device, world.world_size))
    mine = {**watch.figures(), "cores": cores, "other_work": others(), **limits_of_rank(config, world)}
    if stopwatch.on_gpu:
        mine["sent"] = on_stream(mine["sent"], mine["together"])
    return {
        "settings": config.model_dump(mode="json"),
        "executor": loader.executor,
        "world_size": world.world_size,
        "device": world.device.type,
        "images": config.batch_size,
        "data": of_data_set.model_dump(),
        "blocks": {"rounds": rounds, "steps": steps},
        **concluded(config, gather_json(world, mine), intervals(config, per_epoch), needed, trials),
        "stragglers": straggler_table(lines),
        "environment": environment(world),
    }


@contextmanager
def scratch_run(world: World, scratch: Path | None) -> Iterator[Path]:
    """A run's folder, not there yet, the same on all ranks; what it holds at the end goes.

    Args:
        scratch: an existing folder for it; None: the system's for temporary files.
    """
    made = from_rank_zero(world, lambda: tempfile.mkdtemp(prefix="viewmill-profile-", dir=scratch))
    try:
        yield Path(made) / "run"
    finally:
        if world.rank == 0:
            shutil.rmtree(made, ignore_errors=True)


@contextmanager
def other_work(world: World) -> Iterator[Callable[[], float]]:
    """Afterwards: how many processors had other work while inside. All ranks enter it and leave it.

    On several machines too few are told, for the work of all ranks is taken off.
    """
    elsewhere, began_s = Elsewhere(), time.process_time()
    found: list[float] = []
    yield lambda: found[0]
    own_s = sum(gather_json(world, time.process_time() - began_s))
    found.append(elsewhere.processors(own_s))


def keep_traces(run: Path, traces: Path) -> None:
    """Copies what the run's profiler has written."""
    for trace in (run / "profile").glob("rank-*.json.gz"):
        shutil.copy(trace, traces)


def limits_of_rank(config: RunConfig, world: World) -> dict[str, Any]:
    """What this rank could compute at best, with so many threads, and the most memory that it held."""
    peak = peak_of(world.device, config.precision)
    return {
        "torch_threads": torch.get_num_threads(),
        "peak_flops_per_s": peak.flops_per_s,
        "peak": peak.source,
        "peak_memory_bytes": peak_memory(world.device),
    }


def concluded(
    config: RunConfig, ranks: list[dict[str, Any]], every: Intervals, needed: float, trials: bool
) -> dict[str, Any]:
    """What the figures of all ranks say: the diagnosis, what changes would give, the shares of the peak.

    Args:
        ranks: of each rank what `Rounds.figures` and `limits_of_rank` tell.
        needed: operations of a rank's step, see `model_flops`.
    """
    diagnosis = diagnose(ranks, every, config.batch_size)
    rank = ranks[diagnosis["rank"]]
    at_best = diagnosis["step_s"] * rank["peak_flops_per_s"]
    changes = predicted(rank, config, every, diagnosis["step_s"]) if trials else []
    return {
        "intervals": asdict(every),
        "diagnosis": diagnosis,
        "changes": changes,
        "best": best(changes),
        "arithmetic": {
            **{name: rank[name] for name in ("flops", "peak_flops_per_s", "peak")},
            "model_flops": needed,
            "mfu": needed / at_best,
            "hfu": rank["flops"] / at_best,
        },
        "ranks": ranks,
    }


def blocks_of(config: RunConfig, rounds: int, steps: int) -> Blocks:
    """So many steps that what stood ready, views and encoded images, is used up before steps count."""
    # Ready views, those on their way to a device, and one in the making; see `batches_of`.
    ahead = max(config.views.prefetch, config.accumulation) + 2 + READ_AHEAD
    return Blocks(rounds, steps, skip=1 + -(-ahead // config.accumulation))


def measured_config(
    config: RunConfig, blocks: Blocks, end: int, per_epoch: int, is_traced: bool
) -> RunConfig:
    """The run's settings with so many steps, a checkpoint and a line of the log in each block."""
    tree = config.model_dump(mode="json")
    tree["epochs"], tree["max_steps"] = max(config.epochs, -(-end // per_epoch)), end
    tree["log"] |= {"every_steps": min(config.log.every_steps, max(1, blocks.steps // 2))}
    tree["log"] |= {"wandb": None, "mlflow": None, "prometheus": None}
    tree["checkpoint"] |= {"every_epochs": None, "every_steps": blocks.length, "keep": 1}
    tree["checkpoint"] |= {"keep_every_epochs": None, "keep_every_steps": None}
    tree["profile"] = {"steps": [blocks.last_step + 1, end] if is_traced else None}
    return config_from(tree, where="profile")


def trials_of(config: RunConfig, spec: ViewSpec, world: World, cores: float, num_samples: int) -> Trials:
    """Settings worth a try on this machine."""
    on_cpu, widest = world.device.type == "cpu", max(spec.sizes)
    makes_views_alike = ("host", "dali", "auto", "resident", "ffcv")  # as fast as it gets on a CPU
    fits = 2 * config.batch_size <= num_samples and not any(largest(world, [not fits_twice(world)]))
    return Trials(
        executor_threads=other_threads(config.views.num_threads, cores),
        torch_threads=other_threads(torch_threads(config), cores) if on_cpu else (),
        executors=("host",) if on_cpu and config.views.executor not in makes_views_alike else (),
        short_sides=(round(8 * widest / 7), round(10 * widest / 7)),
        doubles_batch=fits,
    )


def torch_threads(config: RunConfig) -> int:
    """Of the training."""
    return config.torch_threads or torch.get_num_threads()


def other_threads(now: int, cores: float) -> tuple[int, ...]:
    """Half as many, twice as many, and as many as there are processors: those that they have room for."""
    room = max(1, round(cores))
    return tuple(sorted({max(1, now // 2), min(2 * now, room), room} - {now}))


def fits_twice(world: World) -> bool:
    """Whether this rank has room for a batch of twice the size, by what it held so far of the host's memory.

    On a GPU that is not known before a step is made; there a batch twice as large is not tried.
    """
    return world.device.type == "cpu" and psutil.virtual_memory().available > 2 * peak_memory(world.device)
