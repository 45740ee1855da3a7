"""Which pieces of the float32 weights and of the optimiser state this rank holds, and which it writes.

A parameter is seen as one flat row of numbers, in the order of `parameter.reshape(-1)`. The ZeRO stages
differ only in which stretch of it a rank holds, so any stage and world size reads a checkpoint of any other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from viewmill.engine.partition import Held, flat_groups, held_in, is_cut, shape_of, share_of
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
    held: list[Slot] = []
    states = engine.optimizer.state
    masters = _masters(engine) if engine.stage == 0 else {}
    stretches = _stretches(engine) if engine.stage else {}
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            held.extend(_frozen(name, weight))
        elif engine.stage == 0:
            master = masters[id(weight)]
            tensors = {WEIGHT: master, **states[master]}
            held.append(Slot(name, 0, tuple(weight.shape), tensors, replicated=True))
        elif id(weight) in stretches:  # else no number of it is here
            one, flat = stretches[id(weight)]
            held.append(_stretch(name, one, {WEIGHT: flat, **states[flat]}))
    return held


def _masters(engine: ZeroEngine) -> dict[int, Tensor]:
    """Stage 0: the float32 tensor that the optimiser updates for each trained weight, by the weight's id."""
    if engine.wrapper is engine.optimizer:  # float32: the weights themselves
        return {id(weight): weight for group in engine.optimizer.param_groups for weight in group["params"]}
    groups = engine.wrapper.fp16_groups, engine.wrapper.fp32_groups
    pairs = [pair for both in zip(*groups, strict=True) for pair in zip(*both, strict=True)]
    return {id(weight): master for weight, master in pairs}


def _stretches(engine: ZeroEngine) -> dict[int, tuple[Held, Tensor]]:
    """Stages 1 to 3: what is here of each trained weight, and in which flat tensor, by the weight's id."""
    return {
        id(one.weight): (one, flat)
        for weights, flat in flat_groups(engine.wrapper, engine.stage)
        for one in held_in(weights, engine.stage)
    }


def _stretch(name: str, one: Held, flats: dict[str, Tensor]) -> Slot:
    tensors = {
        kind: flat.detach().narrow(0, one.start, one.numel) if flat.ndim else flat
        for kind, flat in flats.items()
    }
    return Slot(name, one.offset, shape_of(one.weight), tensors, replicated=False)


def _frozen(name: str, weight: Any) -> Iterator[Slot]:
    """A weight that is not trained is whole on every rank, but at stage 3."""
    if not is_cut(weight):
        yield Slot(name, 0, tuple(weight.shape), {WEIGHT: weight}, replicated=True)
        return
    offset, numel = share_of(weight)
    if numel:
        share = weight.ds_tensor.detach()[:numel]
        yield Slot(name, offset, shape_of(weight), {WEIGHT: share}, replicated=False)


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
