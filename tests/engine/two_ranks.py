"""What two ranks saw, in one spawn: importing DeepSpeed costs seconds, the checks cost none."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from viewmill.engine.agreement import RankError
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.fragments import owned, slots
from viewmill.engine.world import World
from viewmill.engine.zero import import_deepspeed

from tests.engine.small_training import (
    STAGES,
    engine_of,
    network,
    save,
    train,
    weights_of,
)


def two_ranks(rank: int, folder: str) -> dict[str, Any]:
    """All checks on one rank; `folder` holds checkpoints of one rank under 'W=1 stage S'."""
    world = World(rank, 2, rank, torch.device("cpu"))
    import_deepspeed(world).get_accelerator().is_fp16_supported = lambda: True  # torch's kernels are there
    seen: dict[str, Any] = {"restored": {}, "losses": {}, "fragments": {}, "skip": {}}
    for stage in STAGES:
        seen["fragments"][stage] = fragments_of(world, stage)
        seen["skip"][stage] = skipped(world, stage, "fp32")
        for half_type in ("bf16", "fp16"):
            seen["skip"][f"{half_type} {stage}"] = skipped(world, stage, half_type)
        save_halfway(world, stage, Path(folder), seen)
    for source in [f"W={size} stage {stage}" for size in (1, 2) for stage in STAGES]:
        for stage in STAGES:
            restore_and_go_on(world, source, stage, Path(folder), seen)
    seen["lars"] = {stage: after_lars(world, stage) for stage in STAGES}
    seen["offloaded"] = {stage: after_lars(world, stage, offload_optimizer=True) for stage in STAGES[1:]}
    seen["shells"] = shells(world)
    seen["buffers"] = buffers_after_initialize(world)
    seen["failure"] = one_rank_fails(world, Path(folder))
    return seen


def fragments_of(world: World, stage: int) -> list[tuple[str, str, int, int, list[int]]]:
    engine = engine_of(world, stage)
    return [(one.name, one.kind, one.offset, one.numel, list(one.shape)) for one in owned(engine)]


def skipped(world: World, stage: int, precision: str) -> dict[str, Any]:
    """Three steps, the second with a NaN on rank 0 alone; weights and state must not move in it."""
    engine = engine_of(world, stage, without_norms(), precision=precision)
    train(engine, range(1))
    before = held(engine), engine.grad_norm()
    _, applied = train(engine, range(1, 2), spoil=1)
    after, norm = held(engine), engine.grad_norm()
    _, later = train(engine, range(2, 3))
    unmoved = before[0].keys() == after.keys() and all(
        torch.equal(before[0][key], after[key]) for key in after
    )
    finite = all(bool(value.isfinite().all()) for value in held(engine).values())
    return {"applied": applied + later, "unmoved": unmoved, "finite": finite, "norms": [before[1], norm]}


def without_norms() -> nn.Module:
    module = network()
    module[1] = nn.Identity()
    return module


LARS = {"name": "lars", "lr": 3.0, "weight_decay": 0.01, "trust": 0.02}


def after_lars(world: World, stage: int, **zero: Any) -> dict[str, torch.Tensor]:
    """What there is of the weights after some steps, by its name in the module."""
    engine = engine_of(world, stage, without_norms(), optimizer=LARS, zero={"stage": stage, **zero})
    train(engine, range(4))
    return weights_of(engine)


def shells(world: World) -> dict[str, tuple[int, int]]:
    """At stage 3, after a step: numbers of each kernel in the module, and in this rank's share."""
    engine = engine_of(world, 3)
    train(engine, range(1))
    return {
        name: (weight.numel(), weight.ds_tensor.numel())
        for name, weight in engine.module.named_parameters()
        if weight.ds_numel > 7
    }


def held(engine: Any) -> dict[str, torch.Tensor]:
    return {
        f"{kind} {slot.name}": tensor.detach().clone()
        for slot in slots(engine)
        for kind, tensor in slot.tensors.items()
    } | weights_of(engine)


def save_halfway(world: World, stage: int, folder: Path, seen: dict[str, Any]) -> None:
    engine = engine_of(world, stage)
    train(engine, range(3))
    save(engine, folder / f"W=2 stage {stage}", 3)
    seen["losses"][f"W=2 stage {stage}"], _ = train(engine, range(3, 6))
    save(engine, folder / f"W=2 stage {stage}, at the end", 6)


def restore_and_go_on(world: World, source: str, stage: int, folder: Path, seen: dict[str, Any]) -> None:
    """Restores into a fresh engine and saves at once, to compare; then trains on."""
    engine = engine_of(world, stage)
    past = checkpoint.Checkpoint.open(folder / source / "step_00000003")
    checkpoint.restore(engine, past)
    case = f"{source} -> W=2 stage {stage}"
    save(engine, folder / case, 3)
    seen["losses"][case], _ = train(engine, range(3, 6))
    save(engine, folder / f"{case}, at the end", 6)


def buffers_after_initialize(world: World) -> float:
    module = network()
    module[1].running_mean.fill_(float(world.rank))
    return float(engine_of(world, 0, module).module[1].running_mean[0])


def one_rank_fails(world: World, folder: Path) -> dict[str, Any]:
    """Rank 1's disk is full: both ranks must hear of it, and the earlier checkpoint must stay."""
    engine = engine_of(world, 1)
    save(engine, folder / "full", 1)
    original = checkpoint.write_tensors
    if world.rank == 1:
        checkpoint.write_tensors = no_space
    try:
        save(engine, folder / "full", 2)
        message = ""
    except (checkpoint.CheckpointError, RankError) as error:
        message = str(error)
    finally:
        checkpoint.write_tensors = original
    names = sorted(path.name for path in (folder / "full").iterdir())
    save(engine, folder / "full", 2)
    return {"message": message, "names": names, "after": checkpoint.newest(folder / "full")[0].name}


def no_space(path: Path, tensors: Any) -> Any:
    raise OSError(28, "No space left on device", str(path))
