"""The mean of rows over all ranks: of the batch, decaying over batches, or of a window of epochs."""

# m rows on this rank, W ranks, D width

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import all_sum

SCOPES = ("batch", "ema", "streaming", "dataset")


class Mean(NamedTuple):
    """A mean, and how many rows stand behind it."""

    value: Tensor  # (D,) float64
    rows: Tensor  # 0-dim float64


class RunningMean(nn.Module):
    """Mean of rows (m, D) over the rows of all ranks; its state is in float64 buffers, equal on all ranks.

    batch      of the rows at hand; no state
    ema        mean <- momentum mean + (1 - momentum) mean of the rows at hand; the first rows count whole
    streaming  over the last complete window of epochs; before the first one ends, over all rows so far
    dataset    what `fill` was given last; rows at hand change nothing

    Args:
        dim: D.
        scope: one of the four.
        momentum: of "ema", in [0, 1); at 0 it is "batch".
        every_epochs: of "streaming" the length of a window, of "dataset" how often it is filled; >= 1.

    Raises:
        ValueError: an unknown scope, or a number outside its range.
    """

    def __init__(self, dim: int, scope: str, *, momentum: float = 0.0, every_epochs: int = 1) -> None:
        super().__init__()
        if scope not in SCOPES or not 0 <= momentum < 1 or every_epochs < 1:
            raise ValueError(
                f"need a scope of {', '.join(SCOPES)}, momentum in [0, 1) and every_epochs >= 1, "
                f"got {scope}, {momentum} and {every_epochs}"
            )
        self.scope, self.momentum, self.every_epochs = scope, momentum, every_epochs
        if scope != "batch":
            self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer("rows", torch.zeros((), dtype=torch.float64))  # behind the mean; 0: none yet
        if scope == "streaming":
            self.register_buffer("sums", torch.zeros(dim, dtype=torch.float64))
            self.register_buffer("summed", torch.zeros((), dtype=torch.float64))  # rows in the sums

    mean: Tensor
    rows: Tensor
    sums: Tensor
    summed: Tensor

    @torch.no_grad()
    def update(self, rows_mD: Tensor, group: ProcessGroup | None = None) -> Mean:
        """Takes rows in, and gives the mean that holds now. Every rank calls it, also with other counts."""
        if self.scope == "dataset":
            return Mean(self.mean.clone(), self.rows.clone())
        sums = rows_mD.sum(dim=0, dtype=torch.float64)
        both = all_sum(torch.cat([sums, sums.new_tensor([len(rows_mD)])]), group)
        sums, count = both[:-1], both[-1]
        if self.scope == "batch":
            return Mean(sums / count, count)
        if self.scope == "ema":
            kept = self.momentum * (self.rows > 0).to(torch.float64)
            self.mean.mul_(kept).add_((1 - kept) * sums / count)
            self.rows.copy_(count)
            return Mean(self.mean.clone(), count)
        self.sums += sums
        self.summed += count
        # Not an if, which would wait for the device.
        has_window = self.rows > 0
        value = torch.where(has_window, self.mean, self.sums / self.summed)
        return Mean(value, torch.where(has_window, self.rows, self.summed))

    def wants_fill(self, epoch: int) -> bool:
        """Whether a pass over the data set is due before this epoch."""
        return self.scope == "dataset" and epoch % self.every_epochs == 0

    @torch.no_grad()
    def fill(self, mean_D: Tensor, rows: int) -> None:
        """The mean over so many rows, from a pass over the data set; "streaming" begins its sums anew."""
        self.mean.copy_(mean_D)
        self.rows.fill_(rows)
        if self.scope == "streaming":
            self.sums.zero_()
            self.summed.zero_()

    @torch.no_grad()
    def before_epoch(self, epoch: int) -> None:
        """Ends a window of "streaming": what it summed is the mean from here on."""
        if self.scope == "streaming" and epoch and epoch % self.every_epochs == 0:
            self.mean.copy_(self.sums / self.summed)
            self.rows.copy_(self.summed)
            self.sums.zero_()
            self.summed.zero_()
