"""From the host's memory to a device, on a stream of its own, for executors that make views on the CPU."""

from collections.abc import Callable
from dataclasses import replace

import torch
from viewmill.pipelines.executors.view_format import ViewFormat, ViewMemory
from viewmill.pipelines.flow.batches import Batch

Copy = Callable[[list[torch.Tensor]], list[torch.Tensor]]  # views on the host -> the same on the device


class CudaCopy:
    """Copies views to one GPU; called by one thread, which waits for the copy and stalls no stream.

    Waiting here is what lets the host's memory go when the call returns: the executor may then write into it
    again. The consumer must `lend` what it gets.

    Args:
        device: "cuda" or "cuda:1".
        view_format: of the views.

    Raises:
        ValueError: an unknown device.
        RuntimeError: there is no such GPU.
    """

    def __init__(self, device: str, view_format: ViewFormat) -> None:
        kind, _, index = device.partition(":")
        if kind not in ("cuda", "gpu") or not (index or "0").isdecimal():
            raise ValueError(f"unknown device '{device}', expected cpu, cuda, gpu or cuda:INDEX")
        if int(index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"device '{device}': torch sees {torch.cuda.device_count()} GPUs; pass 'cpu'")
        self.device = torch.device("cuda", int(index or 0))
        self._stream = torch.cuda.Stream(self.device)
        self._pinned = ViewMemory(view_format, pinned=True)

    def __call__(self, views: list[torch.Tensor]) -> list[torch.Tensor]:
        """The views on the device, there when this returns."""
        pinned = [view if view.is_pinned() else self._in_pinned_memory(view) for view in views]
        with torch.cuda.stream(self._stream):
            there = [view.to(self.device, non_blocking=True) for view in pinned]
            done = torch.cuda.Event()
            done.record(self._stream)
        done.synchronize()
        return there

    def _in_pinned_memory(self, view: torch.Tensor) -> torch.Tensor:
        # A copy from pageable memory would be made in small pieces, with the host at work all the while.
        return self._pinned.take(view.shape[0], view.shape[2]).copy_(view)


def copied(copy: Copy) -> Callable[[Batch], Batch]:
    """The same batch with its views brought over by `copy`; ids and labels stay where they are."""
    return lambda batch: replace(batch, views=copy(batch.views))


def lend(views: list[torch.Tensor]) -> None:
    """Tells the allocator that the current stream of this thread uses these views.

    They were allocated on another one: without this, memory that the consumer drops is used for the next
    copy while its last kernels may still read it.
    """
    for view in views:
        if view.is_cuda:
            view.record_stream(torch.cuda.current_stream(view.device))
