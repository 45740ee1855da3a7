"""Which pieces of the float32 weights and of the optimiser state this rank holds, and which it writes.

A parameter is seen as one flat row of numbers, in the order of `parameter.reshape(-1)`. The ZeRO stages
differ only in which stretch of it a rank holds, so any stage and world size reads a checkpoint of any other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from viewmill.engine.zero import ZeroEngine

WEIGHT = "weight"


@dataclass(frozen=True)
class Fragment:
    """A stretch of one parameter's weights, or of one kind of its optimiser state, to be written."""

    name: str  # of the parameter, as the module calls it
    kind: str  # "weight", or the optimiser's word: "exp_avg", ...
    offset: int  # where it begins in the flat parameter
    shape: tuple[int, ...]  # of the whole; () for a kind that is one number a parameter
    tensor: Tensor  # flat, float32

    @property
    def numel(self) -> int:
        return self.tensor.numel()


@dataclass(frozen=True)
class Slot:
    """The stretch of one parameter that this rank holds in memory, with its optimiser state.

    Each tensor is either the whole parameter, in its shape, or a flat stretch of it; a kind that is one
    number a parameter is 0-dim.
    """

    name: str
    offset: int
    shape: tuple[int, ...]  # of the whole parameter
    tensors: dict[str, Tensor]  # by kind; WEIGHT is always there
    replicated: bool  # every rank holds the whole; else ranks hold different stretches

    @property
    def numel(self) -> int:
        return self.tensors[WEIGHT].numel()

    def write(self, kind: str, values: Tensor) -> None:
        """Copies flat values of this stretch into memory."""
        target = self.tensors[kind]
        target.copy_(values.view(target.shape))


def owned(engine: ZeroEngine) -> list[Fragment]:
    """What this rank writes: over all ranks, every number of every parameter exactly once.

    Where every rank holds everything, each writes an equal share, so that the writing is spread too.
    """
    held = slots(engine)
    whole = sum(slot.numel for slot in held if slot.replicated)
    rank, world_size = engine.world.rank, engine.world.world_size
    low, high = whole * rank // world_size, whole * (rank + 1) // world_size
    fragments: list[Fragment] = []
    position = 0  # of the next replicated slot, among all of them
    for slot in held:
        start, stop = 0, slot.numel
        if slot.replicated:
            start, stop = (min(max(edge - position, 0), slot.numel) for edge in (low, high))
            position += slot.numel
        if start < stop:
            fragments.extend(_cut(slot, engine.state_kinds, start, stop))
    return fragments


def _cut(slot: Slot, extents: dict[str, str], start: int, stop: int) -> Iterator[Fragment]:
    """[start, stop) of the slot, of each kind; who has a parameter's first number writes its scalars."""
    for kind, tensor in slot.tensors.items():
        if extents.get(kind) != "scalar":
            stretch = tensor.detach().reshape(-1)[start:stop].float()
            yield Fragment(slot.name, kind, slot.offset + start, slot.shape, stretch)
        elif slot.offset + start == 0:
            yield Fragment(slot.name, kind, 0, (), tensor.detach().reshape(1).float())


def slots(engine: ZeroEngine) -> list[Slot]:
    """Everything that this rank holds, in the module's order of parameters."""
    masters, states = _masters(engine), engine.optimizer.state
    held = []
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            held.append(Slot(name, 0, tuple(weight.shape), {WEIGHT: weight}, replicated=True))
        elif engine.stage == 0:
            master = masters[id(weight)]
            tensors = {WEIGHT: master, **states[master]}
            held.append(Slot(name, 0, tuple(weight.shape), tensors, replicated=True))
        else:
            flat = masters[id(weight)]
            held.extend(_stretch(name, weight, {WEIGHT: flat, **states[flat]}))
    return held


def _masters(engine: ZeroEngine) -> dict[int, Tensor]:
    """The float32 tensor that the optimiser updates for each trained weight, by the weight's id."""
    if engine.stage:  # one flat share of a whole group of weights
        groups = engine.wrapper.bit16_groups, engine.wrapper.single_partition_of_fp32_groups
        return {id(weight): flat for weights, flat in zip(*groups, strict=True) for weight in weights}
    if engine.wrapper is engine.optimizer:  # float32: the weights themselves
        return {id(weight): weight for group in engine.optimizer.param_groups for weight in group["params"]}
    groups = engine.wrapper.fp16_groups, engine.wrapper.fp32_groups
    pairs = [pair for both in zip(*groups, strict=True) for pair in zip(*both, strict=True)]
    return {id(weight): master for weight, master in pairs}


def _stretch(name: str, weight: Any, flats: dict[str, Tensor]) -> Iterator[Slot]:
    """Stages 1 and 2: DeepSpeed's map says where in this rank's flat share a parameter's stretch lies."""
    mapping = weight._hp_mapping
    if mapping is None:  # no number of it is here
        return
    start, numel = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
    tensors = {
        kind: flat.detach().narrow(0, start, numel) if flat.ndim else flat for kind, flat in flats.items()
    }
    yield Slot(name, mapping.lp_fragment_address.start, tuple(weight.shape), tensors, replicated=False)


def check_cover(whole: int, stretches: list[tuple[int, int]]) -> str | None:
    """What is wrong with (offset, numel) stretches that should tile [0, whole) exactly; None: nothing."""
    position = 0
    for offset, numel in sorted(stretches):
        if offset != position:
            fault = "missing" if offset > position else "there twice"
            return f"the numbers from {min(offset, position)} to {max(offset, position)} are {fault}"
        position += numel
    return None if position == whole else f"{position} numbers are there, of {whole}"


def numel_of(shape: tuple[int, ...]) -> int:
    return math.prod(shape)
