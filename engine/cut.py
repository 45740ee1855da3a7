"""A module that is only read, such as a teacher, with its parameters cut over the ranks as by ZeRO 3."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from viewmill.engine.partition import is_cut, whole, write


def cut(module: nn.Module) -> None:
    """From now on each rank holds a share of each parameter, of the numbers that it has of the student's.

    The forward of each submodule gathers the parameters that are its own, not its children's, and lets them
    go at its end: what is whole at once are those of the modules that are running. All ranks must call the
    same forwards in the same order. One that reads a child's weights without calling it finds them empty.

    Not DeepSpeed's own hooks: those learn the order of the layers from one step for the next, and a teacher's
    head is used outside of its forward. They are for training too, which nothing here is.
    """
    for layer in module.modules():
        own = list(layer.parameters(recurse=False))
        for parameter in own:
            _cut(parameter)
        if own:
            layer.register_forward_pre_hook(_hook(_gather, own))
            layer.register_forward_hook(_hook(_let_go, own), always_call=True)


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Parameters that are the module's own, not its children's, are whole meanwhile; all ranks call it."""
    own = [parameter for parameter in module.parameters(recurse=False) if is_cut(parameter)]
    _gather(own)
    try:
        yield
    finally:
        _let_go(own)


@contextmanager
def held_whole(module: nn.Module) -> Iterator[None]:
    """Every parameter is whole on every rank meanwhile, and a forward gathers nothing; all ranks call it.

    For forwards that ranks make in different numbers. Of a module that is not cut nothing changes.
    """
    held: list[Any] = [parameter for parameter in module.parameters() if is_cut(parameter)]
    _gather(held)
    for parameter in held:
        parameter.is_held = True
    try:
        yield
    finally:
        for parameter in held:
            parameter.is_held = False
        _let_go(held)


def _cut(parameter: Any) -> None:
    """By the names that DeepSpeed gives a share, so that `partition` reads the student's and this alike."""
    if is_cut(parameter):  # shared by two modules
        return
    value = parameter.detach()
    share = -(-value.numel() // dist.get_world_size())
    parameter.ds_numel, parameter.ds_shape = value.numel(), value.shape
    parameter.ds_tensor, parameter.is_held = value.new_zeros(share), False
    write(parameter, value)
    _let_go([parameter])


def _gather(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if not parameter.is_held:
            parameter.data = whole(parameter)


def _let_go(parameters: Iterable[Any]) -> None:
    for parameter in parameters:
        if not parameter.is_held:
            parameter.data = torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def _hook(work: Callable[[Iterable[Any]], None], parameters: list[nn.Parameter]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        work(parameters)

    return hook
