"""Which pieces of the float32 weights and of the optimiser's state this rank owns, at every ZeRO stage.

DeepSpeed flattens parameters and cuts the flat tensors where ranks meet, so a rank owns pieces of parameters.
A checkpoint is made of such pieces, each named by its parameter, kind and place, and any cut can be read back
into any other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("exp_avg", "exp_avg_sq")  # AdamW's state of an element
WEIGHT = "weight"

# (parameter, kind, first element, number of elements) -> flat float32 tensor
ReadPiece = Callable[[str, str, int, int], Tensor]


@dataclass(frozen=True)
class Fragment:
    """A run of elements of one parameter, or of its optimiser state, that this rank answers for."""

    name: str  # of the parameter in the module
    kind: str  # "weight" or one of KINDS
    offset: int  # first element, of the parameter laid out flat
    shape: tuple[int, ...]  # of the whole parameter
    tensor: Tensor  # flat, float32; writing into it changes the engine's state


class ReplicatedState:
    """Stage 0: every rank holds all of it and answers for an even share of every parameter."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, named: dict[str, nn.Parameter], rank: int, world_size: int
    ) -> None:
        self.optimizer, self.named = optimizer, named
        self.rank, self.world_size = rank, world_size

    def fragments(self) -> Iterator[Fragment]:
        for name, parameter in self.named.items():
            numel = parameter.numel()
            begin, end = (numel * rank // self.world_size for rank in (self.rank, self.rank + 1))
            state = state_of(self.optimizer, parameter)
            for kind, tensor in ((WEIGHT, parameter.detach()), *((kind, state[kind]) for kind in KINDS)):
                yield Fragment(name, kind, begin, tuple(parameter.shape), tensor.view(-1)[begin:end])

    def steps(self) -> dict[str, int]:
        return {name: int(state_of(self.optimizer, p)["step"]) for name, p in self.named.items()}

    def load(self, read: ReadPiece, steps: dict[str, int]) -> None:
        for name, parameter in self.named.items():
            state = state_of(self.optimizer, parameter)
            state["step"].fill_(steps[name])
            for kind in KINDS:
                state[kind].view(-1).copy_(read(name, kind, 0, parameter.numel()))


class PartitionedState:
    """Stages 1 and 2: a rank holds one flat float32 shard of each parameter group."""

    def __init__(self, zero_optimizer: Any, named: dict[str, nn.Parameter]) -> None:
        self.zero_optimizer = zero_optimizer
        self.names = {id(parameter): name for name, parameter in named.items()}

    def groups(self) -> Iterator[tuple[list[nn.Parameter], Tensor, dict[str, Tensor]]]:
        """(parameters, this rank's flat float32 shard, the optimiser's state of it) of every group."""
        zero = self.zero_optimizer
        for parameters, shard in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            yield parameters, shard, state_of(zero.optimizer, shard)

    def fragments(self) -> Iterator[Fragment]:
        for parameters, shard, state in self.groups():
            tensors = ((WEIGHT, shard.detach()), *((kind, state[kind]) for kind in KINDS))
            for parameter in parameters:
                mapping = parameter._hp_mapping  # None: no element of it lies in this rank's shard
                if mapping is None:
                    continue
                start, numel = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
                offset, name = mapping.lp_fragment_address.start, self.names[id(parameter)]
                for kind, flat in tensors:
                    yield Fragment(name, kind, offset, tuple(parameter.shape), flat[start : start + numel])

    def steps(self) -> dict[str, int]:
        return {
            self.names[id(parameter)]: int(state["step"])
            for parameters, _, state in self.groups()
            for parameter in parameters
        }

    def load(self, read: ReadPiece, steps: dict[str, int]) -> None:
        for parameters, _, state in self.groups():
            # One counter serves a group: its parameters have always been stepped together.
            state["step"].fill_(steps[self.names[id(parameters[0])]])
        for piece in self.fragments():
            piece.tensor.copy_(read(piece.name, piece.kind, piece.offset, piece.tensor.numel()))


def state_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a parameter; before its first step what AdamW would begin with."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.tensor(0.0)
        for kind in KINDS:
            state[kind] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return state
