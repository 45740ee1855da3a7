"""Bytes that a rank hands to other ranks, counted where torch.distributed is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor


class Traffic:
    """Bytes sent, by collective."""

    def __init__(self) -> None:
        self.sent: dict[str, int] = {}

    def add(self, name: str, count: int) -> None:
        self.sent[name] = self.sent.get(name, 0) + count


@contextmanager
def counted() -> Iterator[Traffic]:
    """Counts what this rank's tensors hold for others in the collectives that methods use.

    To each other rank goes: of a gather, the rank's rows; of a scattered sum, the rows that the other owns;
    of an exchange, the other's part. A sum of x counts as x once: how often it travels, the backend decides.
    """
    traffic = Traffic()
    sizes: dict[str, Callable[..., int]] = {
        "all_gather_into_tensor": lambda out, rows, **_: (_ranks() - 1) * _bytes(rows),
        "reduce_scatter_tensor": lambda out, rows, **_: _bytes(rows) - _bytes(out),
        "all_to_all_single": _exchanged,
        "all_reduce": lambda x, **_: _bytes(x),
    }

    def watched(name: str) -> Any:
        original = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            traffic.add(name, sizes[name](*arguments, **options))
            return original(*arguments, **options)

        return call

    with mock.patch.multiple(dist, **{name: watched(name) for name in sizes}):
        yield traffic


def _exchanged(received: Tensor, sent: Tensor, _: list[int], parts: list[int], **__: Any) -> int:
    return (sum(parts) - parts[dist.get_rank()]) * sent.element_size()


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _ranks() -> int:
    return dist.get_world_size()
