"""From a checkpoint back into an engine, of any ZeRO stage and world size: all of it, or nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from viewmill.engine.checkpoints.errors import CheckpointError, everywhere
from viewmill.engine.checkpoints.folder import Checkpoint
from viewmill.engine.fragments import Slot, slots
from viewmill.engine.partition import shape_of
from viewmill.engine.zero import ZeroEngine


def restore(engine: ZeroEngine, checkpoint: Checkpoint, beside: Mapping[str, Tensor] | None = None) -> None:
    """Puts weights, optimiser state and buffers into the engine; every rank calls it.

    All is read before anything is changed. On the same stage and world size training then goes on bit for
    bit. The learning rate is the trainer's to set.

    Args:
        beside: tensors saved among the buffers that are not the module's, such as the teacher's.

    Raises:
        CheckpointError: parameters, buffers or kinds of state are not exactly the engine's, or a file cannot
            be read; on every rank (RankError where another rank failed), and nothing is changed.
    """
    held, own = slots(engine), {**dict(engine.module.named_buffers()), **(beside or {})}
    values, buffers = everywhere(engine.world, lambda: _read_all(engine, checkpoint, held, own))
    with torch.no_grad():
        for slot in held:
            for kind in slot.tensors:
                slot.write(kind, values[slot.name, kind])
        for name, buffer in own.items():
            buffer.copy_(buffers[name])
    engine.publish_weights()


def _read_all(
    engine: ZeroEngine, checkpoint: Checkpoint, held: list[Slot], own: Mapping[str, Tensor]
) -> tuple[dict[tuple[str, str], Tensor], dict[str, Tensor]]:
    """This rank's stretches by (parameter, kind), and the buffers; nothing is changed yet."""
    buffers = checkpoint.buffers()
    _refuse_other_model(engine, checkpoint, buffers, own)
    values: dict[tuple[str, str], Tensor] = {}
    for slot in held:
        for kind in slot.tensors:
            scalar = checkpoint.manifest.kinds.get(kind) == "scalar"
            offset, numel = (0, 1) if scalar else (slot.offset, slot.numel)
            values[slot.name, kind] = checkpoint.read(kind, slot.name, offset, numel)
    _refuse_unequal_scalars(checkpoint, held, values)
    return values, buffers


def _refuse_other_model(
    engine: ZeroEngine, checkpoint: Checkpoint, buffers: dict[str, Tensor], own: Mapping[str, Tensor]
) -> None:
    """Names, shapes and kinds must be exactly the engine's: what lacks is lost, what is over a mistake."""
    module, manifest = engine.module, checkpoint.manifest
    compared: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "parameters": (
            {name: parameter.shape for name, parameter in manifest.parameters.items()},
            {name: list(shape_of(parameter)) for name, parameter in module.named_parameters()},
        ),
        "trained parameters": (
            {name: parameter.trained for name, parameter in manifest.parameters.items()},
            {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        ),
        "buffers": (_kinds_of(buffers), _kinds_of(own)),
        "optimiser state": (dict(manifest.kinds), engine.state_kinds),
    }
    faults = [
        fault for what, (found, expected) in compared.items() for fault in _differences(what, found, expected)
    ]
    if faults:
        raise CheckpointError(
            f"{checkpoint.path}: is of another model: {'; '.join(faults)}; use the configuration that it was "
            "trained with. Nothing was loaded"
        )


def _kinds_of(buffers: Mapping[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(buffer.dtype).removeprefix('torch.')} {list(buffer.shape)}"
        for name, buffer in buffers.items()
    }


def _differences(what: str, found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Names that one side lacks, and values that differ; the first few of each."""
    both = [name for name in expected if name in found and found[name] != expected[name]]
    changed = [f"{name} is {found[name]} there and {expected[name]} here" for name in both]
    faults = {
        "missing": [name for name in expected if name not in found],
        "not in this model": [name for name in found if name not in expected],
        "different": changed,
    }
    return [
        f"{what} {fault}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for fault, names in faults.items()
        if names
    ]


def _refuse_unequal_scalars(
    checkpoint: Checkpoint, held: list[Slot], values: dict[tuple[str, str], Tensor]
) -> None:
    """Above stage 0 a whole group of parameters shares one step count, so theirs must agree."""
    seen: dict[int, tuple[str, float]] = {}
    for slot in held:
        for kind, tensor in slot.tensors.items():
            if checkpoint.manifest.kinds.get(kind) != "scalar":
                continue
            value = values[slot.name, kind].item()
            other, expected = seen.setdefault(id(tensor), (slot.name, value))
            if value != expected:
                raise CheckpointError(
                    f"{checkpoint.path}: {kind} is {expected:g} for {other} and {value:g} for {slot.name}, "
                    "which share one at this ZeRO stage; resume at stage 0"
                )
