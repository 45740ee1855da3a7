"""Running statistics over the micro-batches of one step: they move once, as without accumulation."""

import torch
from torch import Tensor, nn


class StepBuffers:
    """A module's buffers while the micro-batches of one step go through it.

    Each forward finds them as the step found them, and in the end they move once, to the mean of what the
    forwards made of them. So the momentum of a BatchNorm means what it means without accumulation, and a
    second forward of the same images can meet what the first one met. Counts, which are integers, are those
    of one forward. With one forward a step it leaves the buffers alone, unless a backward moves them too.

    Args:
        module: whose buffers its forward may change.
        forwards: micro-batches of the step.
        recomputes: a backward runs parts of a forward again.
    """

    def __init__(self, module: nn.Module, forwards: int, *, recomputes: bool = False) -> None:
        self._buffers: list[Tensor] = list(module.buffers()) if forwards > 1 or recomputes else []
        self._start = self._copies()
        self._moved = self._copies()
        self._seen = 0

    def _copies(self) -> list[Tensor]:
        return [buffer.detach().clone() for buffer in self._buffers]

    def begin(self) -> None:
        """Before each forward: the buffers as the step found them."""
        self._write(self._start)

    @torch.no_grad()
    def end(self) -> None:
        """After each first forward of a micro-batch: what it made of them counts."""
        self._seen += 1
        for mean, buffer in zip(self._moved, self._buffers, strict=True):
            if mean.is_floating_point():
                mean.lerp_(buffer, 1 / self._seen)  # to the bit the same where nothing changes
            else:
                mean.copy_(buffer)

    def settle(self) -> None:
        """After the last forward, and its backward, which may have saved them: they move."""
        self._write(self._moved)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        if self._buffers:
            torch._foreach_copy_(self._buffers, values)
