"""A small network under ZeRO on any number of ranks: the same global batches whatever the world size."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.checkpoints import checkpoint
from viewmill.engine.config import RunConfig
from viewmill.engine.partition import whole_state
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine, initialize

BATCH = 8
STAGES = (0, 1, 2, 3)


def network(width: int = 5) -> nn.Module:
    """Kernels, norms with buffers, biases, a frozen layer, and sizes that no two ranks halve evenly."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, width, 3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(width * 16, 7),
        nn.Linear(7, 7, bias=False),
    )
    module[5].weight.requires_grad_(False)
    return convert_batchnorm(module, torch.device("cpu"))


def settings(stage: int = 0, **changes: Any) -> RunConfig:
    tree = {"epochs": 1, "batch_size": BATCH, "zero": {"stage": stage}, "optimizer": {"lr": 1e-2}}
    return RunConfig.model_validate(tree | changes)


def engine_of(world: World, stage: int, module: nn.Module | None = None, **changes: Any) -> ZeroEngine:
    return initialize(network() if module is None else module, settings(stage, **changes), world)


def images(step: int) -> Tensor:
    """The global batch of a step: (8, 3, 6, 6)."""
    return torch.randn(BATCH, 3, 6, 6, generator=torch.Generator().manual_seed(step))


def train(engine: ZeroEngine, steps: range, spoil: int | None = None) -> tuple[list[float], list[bool]]:
    """Losses of this rank and whether each step was applied; at step `spoil` one image of rank 0 is NaN."""
    losses, applied = [], []
    for step in steps:
        batch = images(step)
        if step == spoil:
            batch[0] = float("nan")
        mine = batch[engine.world.rank :: engine.world.world_size]
        dtype = next(engine.module.parameters()).dtype
        loss = engine(mine.to(dtype)).float().square().mean()
        engine.backward(loss)
        applied.append(engine.step())
        losses.append(loss.item())
    return losses, applied


def save(engine: ZeroEngine, folder: Path | str, step: int, **changes: Any) -> Path:
    return begin(engine, folder, step, **changes).finish()


def begin(engine: ZeroEngine, folder: Path | str, step: int, **changes: Any) -> checkpoint.Saving:
    state, buffers = {"position": step * BATCH}, dict(engine.module.named_buffers())
    return checkpoint.begin(folder, step, engine, engine.world, state, buffers, **changes)


def everything(path: Path | str) -> dict[str, Tensor]:
    """All that a checkpoint holds, by kind and name."""
    opened = checkpoint.Checkpoint.open(path)
    kinds = ("weight", *opened.manifest.kinds)
    whole = {f"{kind} {name}": value for kind in kinds for name, value in opened.read_full(kind).items()}
    return whole | {f"buffer {name}": value for name, value in opened.buffers().items()}


def weights_of(engine: ZeroEngine) -> dict[str, Tensor]:
    """What the module computes with."""
    return {name: value.clone() for name, value in whole_state(engine.module)}


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """The same names and the same bits."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
