"""What a rank holds where ZeRO cuts parameters: stretches of flat tensors, by DeepSpeed's own maps.

Stages 1 and 2 cut the float32 weights of a group, joined to one row, into equal shares, so that a rank has
whole parameters and at most two parts of one. Stage 3 cuts each parameter by itself: rank r of W has its
numbers [r s, (r + 1) s) with s = ceil(numel / W); the last share is padded. There the module holds empty
shells, and a forward gathers the weights of a layer while it runs. Nothing here imports DeepSpeed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Held(NamedTuple):
    """The stretch of one parameter that lies in this rank's flat tensor of a group."""

    number: int  # the parameter's place among the group's, the same on every rank
    weight: Any
    start: int  # where it begins in the flat tensor
    offset: int  # where it begins in the flat parameter
    numel: int


def flat_groups(wrapper: Any, stage: int) -> list[tuple[list[Any], Tensor]]:
    """Stages 1 to 3: the parameters of each group, and the float32 tensor with this rank's share of them."""
    if stage == 3:
        groups = wrapper.fp16_groups, wrapper.fp32_partitioned_groups_flat
    else:
        groups = wrapper.bit16_groups, wrapper.single_partition_of_fp32_groups
    return list(zip(*groups, strict=True))


def held_in(weights: list[Any], stage: int) -> Iterator[Held]:
    """What this rank's flat tensor of a group holds of its parameters; what is not here is left out."""
    position = 0  # in the flat tensor, at stage 3
    for number, weight in enumerate(weights):
        if stage == 3:
            offset, numel = share_of(weight)
            if numel:
                yield Held(number, weight, position, offset, numel)
            position += weight.ds_tensor.numel()
        elif weight._hp_mapping is not None:
            place = weight._hp_mapping.hp_fragment_address
            offset = weight._hp_mapping.lp_fragment_address.start
            yield Held(number, weight, place.start, offset, place.numel)


def share_of(weight: Any) -> tuple[int, int]:
    """Stage 3: where this rank's share begins in the flat parameter, and how many numbers it has of it."""
    share = weight.ds_tensor.numel()
    offset = dist.get_rank() * share
    return offset, max(0, min(share, weight.ds_numel - offset))


def shape_of(weight: Any) -> tuple[int, ...]:
    """Of the whole parameter, which at stage 3 is an empty shell between two forwards."""
    return tuple(weight.ds_shape if is_cut(weight) else weight.shape)


def is_cut(tensor: Any) -> bool:
    """Whether this is a parameter at stage 3. DeepSpeed marks it by attributes, and by no type."""
    return hasattr(tensor, "ds_tensor")


@torch.no_grad()
def whole(tensor: Any) -> Tensor:
    """A parameter or buffer as it is, or, at stage 3, a parameter put together; all ranks then call it."""
    if not is_cut(tensor):
        return tensor.detach()
    share: Tensor = tensor.ds_tensor.detach()
    flat = share.new_empty(dist.get_world_size() * share.numel())
    dist.all_gather_into_tensor(flat, share)
    return flat[: tensor.ds_numel].view(tensor.ds_shape)


@torch.no_grad()
def write(tensor: Any, value: Tensor) -> None:
    """Copies a whole value into a parameter or buffer; at stage 3 what this rank has of a parameter."""
    if not is_cut(tensor):
        tensor.copy_(value)
        return
    offset, numel = share_of(tensor)
    tensor.ds_tensor[:numel].copy_(value.reshape(-1)[offset : offset + numel])


def here(weight: Any) -> Tensor:
    """What this rank holds of a parameter: the whole, or at stage 3 its padded share."""
    held: Tensor = weight.ds_tensor if is_cut(weight) else weight
    return held.detach()


def whole_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The module's `state_dict` at any stage, one whole tensor at a time; all ranks go through it together.

    A consumer that lets go of each tensor never has the whole model.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        yield name, whole(tensor)
