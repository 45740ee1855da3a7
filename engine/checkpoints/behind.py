"""Writing behind the training's back: out of copies, in a thread."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class HostCopies:
    """Copies in the host's memory, in room that is used again: what is taken is good until the next time."""

    def __init__(self) -> None:
        self._room: dict[tuple[str, str], Tensor] = {}

    def of(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies of a group of tensors by their names in it, complete when this returns."""
        copies = {}
        for name, tensor in tensors.items():
            room = self._room.get((group, name))
            if room is None or (room.shape, room.dtype) != (tensor.shape, tensor.dtype):
                # Pinned, a copy from the GPU takes a fraction of the time.
                room = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
                self._room[group, name] = room
            copies[name] = room.copy_(tensor.detach(), non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors.values()):
            torch.cuda.current_stream().synchronize()
        return copies


def in_a_thread(work: Callable[[], Result]) -> "Future[Result]":
    """work() in a thread of its own, which an ending interpreter waits for."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="viewmill-checkpoint")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def done(work: Callable[[], Result]) -> "Future[Result]":
    """work() here and now; what it raises, the future raises."""
    future: Future[Result] = Future()
    try:
        future.set_result(work())
    except Exception as error:  # raised where the result is asked for
        future.set_exception(error)
    return future
