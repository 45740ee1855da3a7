"""Steps whose loss or gradient is no number: skipped without a trace, counted, and fatal when they repeat."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that is no number."""


@dataclass
class SkipCount:
    """Skipped steps of a run: in all, and since the last good one.

    Overflows, which lower the loss scale of fp16, are counted apart: they are no complaint of the run.
    """

    total: int = 0
    in_row: int = 0
    overflows: int = 0

    def good(self) -> None:
        self.in_row = 0

    def skipped(self, step: int, ids: list[int], limit: int, where: str) -> None:
        """Counts one skipped step.

        Args:
            step: steps done, this one included.
            ids: samples of the step's global batch.
            limit: skipped steps in a row that end the run.
            where: see `first_place`.

        Raises:
            NonFiniteError: the limit is reached.
        """
        self.total += 1
        self.in_row += 1
        if self.in_row >= limit:
            raise NonFiniteError(
                f"step {step}: loss or gradient is not finite ({where}), {self.in_row} steps in a row "
                "(nonfinite_limit); lower optimizer.lr or set optimizer.clip_grad_norm, and look at the "
                f"samples {ids}"
            )


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def first_place(finite: list[tuple[bool, bool]]) -> str:
    """Where a number that is none came in: 'views of rank 1', 'embeddings of rank 0, 1', or later.

    Views first: one bad view spoils the embeddings of all ranks, by way of BatchNorm's global statistics.

    Args:
        finite: whether the views, and the embeddings, of each rank are.
    """
    for what, column in (("views", 0), ("embeddings", 1)):
        ranks = [str(rank) for rank, flags in enumerate(finite) if not flags[column]]
        if ranks:
            return f"{what} of rank {', '.join(ranks)}"
    return "views and embeddings are finite"


class BufferGuard:
    """Takes the buffers of modules back to where they stood before a skipped step.

    Forward has already averaged a non-finite batch into the BatchNorm statistics, and into those of the
    method, when the step is refused, and one NaN there would spoil every later evaluation.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._kept = [buffer.detach().clone() for buffer in self._buffers]

    @torch.no_grad()
    def settle(self, applied: bool) -> None:
        """After each step: keeps the new values, or puts the old ones back."""
        if not self._buffers:
            return
        new, old = (self._kept, self._buffers) if applied else (self._buffers, self._kept)
        torch._foreach_copy_(new, old)
