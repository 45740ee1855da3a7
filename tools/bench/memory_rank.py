"""The memory of one rank of a training: a process of its own, a few steps, peaks by the system's count."""

import gc
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.scheduled import value_at
from viewmill.engine.step import train_step
from viewmill.engine.world import World
from viewmill.engine.zero import initialize
from viewmill.tools.bench.memory import MIB, now_bytes, peak_bytes, reset_peak

STEPS = 2  # in the second one all that the first one has left is there

# glibc keeps freed memory for later, and a peak would tell its habits. What is larger goes back at once.
VARIABLES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "2"}
VARIABLES["DS_ACCELERATOR"] = "cpu"  # DeepSpeed is imported once, for all ranks


class Job(NamedTuple):
    """What the ranks of one measurement do; goes to them by pickling."""

    config: dict[str, Any]  # of a RunConfig
    sizes: tuple[int, ...]  # of the views, pixels
    world_size: int


@contextmanager
def plain_malloc() -> Iterator[None]:
    """Processes whose first one is started within give freed memory back."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def measure_rank(rank: int, job: Job, folder: str) -> None:
    """Joins the others, trains STEPS steps on random views and writes what it has seen to FOLDER/RANK.json.

    MiB, beyond what the process held when all libraries were loaded and had computed once: `start_peak` while
    the engine is made, `held` when it is, `step_peak` while it steps, `after` when it has.
    """
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=job.world_size
    )
    world = World(rank, job.world_size, rank, torch.device("cpu"))
    try:
        _settle_libraries(job, world)
        found = _train(RunConfig.model_validate(job.config), job, world)
        (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def _settle_libraries(job: Job, world: World) -> None:
    """A step of the smallest network at the same stage: code is loaded, threads and sockets are there."""
    tree = job.config | {
        "model": {"backbone": "test_vit"},
        "batch_size": 2 * job.world_size,
        "accumulation": 1,
    }
    _train(RunConfig.model_validate(tree), job._replace(sizes=(160, 160)), world)


def _train(config: RunConfig, job: Job, world: World) -> dict[str, float]:
    generator = torch.Generator().manual_seed(world.rank)
    per_micro = config.batch_size // (config.accumulation * job.world_size)
    gc.collect()  # a DeepSpeed engine is a ring of references: the one of `_settle_libraries` ends here
    before = now_bytes()
    micro_batches = [
        [torch.randn(per_micro, 3, size, size, generator=generator) for size in job.sizes]
        for _ in range(config.accumulation)
    ]
    reset_peak()
    student = _student(config, job)
    engine = initialize(student, config, world)
    found = {"start_peak": peak_bytes(), "held": now_bytes()}
    reset_peak()
    values = {name: value_at(number, 0, config.epochs) for name, number in config.method.scheduled().items()}
    student.train()
    for _ in range(STEPS):
        step = train_step(engine, None, micro_batches, values, labels=torch.empty(0))
        assert step.applied
        del step
    found |= {"step_peak": peak_bytes(), "after": now_bytes()}
    return {name: (value - before) / MIB for name, value in found.items()}


def _student(config: RunConfig, job: Job) -> Student:
    student = build_student(config.model, config.method, image_size=job.sizes[0], seed=0)
    return convert_batchnorm(student, torch.device("cpu"))  # type: ignore[return-value]


class Counted(NamedTuple):
    """What the formula is made of, in MiB."""

    weights: float  # w = 4 P, of P numbers in float32
    head: float  # of these, the method's
    activations: float  # what autograd keeps of one micro-batch's forward, without the weights
    views: float  # of one micro-batch


def count(job: Job) -> Counted:
    """By one forward of a rank's micro-batch, here."""
    config = RunConfig.model_validate(job.config)
    per_micro = config.batch_size // (config.accumulation * job.world_size)
    student = build_student(config.model, config.method, image_size=job.sizes[0], seed=0).train()
    own = {weight.untyped_storage().data_ptr() for weight in student.parameters()}
    views = [torch.zeros(per_micro, 3, size, size) for size in job.sizes]
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embeddings = student(views)
    activations = sum(kept.values())
    del embeddings
    numel, head = (sum(weight.numel() for weight in part.parameters()) for part in (student, student.method))
    images = per_micro * sum(3 * size**2 for size in job.sizes)
    return Counted(4 * numel / MIB, 4 * head / MIB, activations / MIB, 4 * images / MIB)
