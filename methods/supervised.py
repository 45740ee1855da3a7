"""The supervised yardstick: cross-entropy on labels, over the views and images of all ranks."""

# V views of an image, n images on this rank, K classes

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import check_equal_shapes, mean_over_ranks


def supervised_loss(logits: Tensor, labels: Tensor, *, group: ProcessGroup | None = None) -> Tensor:
    """How surprising the labels are, averaged over the views and the images of all ranks.

    - mean_{v,i} log softmax(logits_vi)[label_i]

    Args:
        logits: (V, n, K). Half types go up to float32; float64 stays.
        labels: (n,) int64 in [0, K); an image's views share its label.
        group: ranks whose images are pooled; None is every rank.

    Returns:
        0-dim tensor, nats, equal on all ranks. The mean over ranks of the gradients that backward leaves is
        the gradient of the global batch.

    Raises:
        ValueError: on all ranks: shapes differ between ranks, or logits and labels do not fit.
        IndexError: on a CPU, a label outside [0, K) (on a GPU the device stops); the engine refuses such
            data sets before it trains.
    """
    check_equal_shapes((*logits.shape, *labels.shape), logits.device, group)
    if logits.ndim != 3 or not logits.numel() or labels.shape != logits.shape[1:2]:
        raise ValueError(
            f"need logits (V, n, K) and labels (n,), got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    dtype = torch.promote_types(logits.dtype, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        of_rank = F.cross_entropy(logits.to(dtype).flatten(0, 1), labels.repeat(len(logits)))
    return mean_over_ranks(of_rank, group)
