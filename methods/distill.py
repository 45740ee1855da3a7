"""Clustering distillation: the student's loss against the teacher's targets, view against view."""

# n images on this rank, K clusters, Vs views of the student, Vt of the teacher

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from viewmill.methods.collectives import check_equal_shapes, mean_over_ranks
from viewmill.methods.targets import teacher_targets

__all__ = ["distillation_loss", "teacher_targets"]

KINDS = ("kl", "cross_entropy")


def distillation_loss(
    student_logits: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    kind: str = "kl",
    group: ProcessGroup | None = None,
) -> Tensor:
    """Divergence of the student's clusters from the teacher's, over the images of all ranks.

    mean over the pairs (v, u), u != v, and over the images of
    - sum_k q^u_k log p^v_k             "cross_entropy", or of
    sum_k q^u_k log(q^u_k / p^v_k)      "kl",
    with p = softmax(logits / temperature) and 0 log 0 = 0. Teacher view u is the same picture as student view
    u; the student may have more. Both kinds have the same gradient.
    Source: clustering distillation, equation 8.

    Args:
        student_logits: (Vs, n, K), before the temperature. Half types go up to float32.
        targets: (Vt, n, K), rows that sum to 1; no gradient flows into them.
        temperature: > 0.
        kind: "kl" or "cross_entropy".
        group: ranks whose images are pooled; None is every rank.

    Returns:
        0-dim tensor, nats, equal on all ranks. The mean over ranks of the gradients that backward leaves is
        the gradient of the global batch.

    Raises:
        ValueError: on all ranks: shapes differ between ranks or do not fit, there is no pair of different
            views, or kind or temperature is wrong.
    """
    check_equal_shapes((*student_logits.shape, *targets.shape), student_logits.device, group)
    views, teacher_views = _checked(student_logits, targets, temperature, kind)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    with torch.autocast(student_logits.device.type, enabled=False):
        log_p = (student_logits.to(dtype) / temperature).log_softmax(dim=2)
        q = targets.detach().to(dtype)
        # A view of the student meets the sum of all targets but its own.
        others = q.sum(dim=0).expand(views, -1, -1)
        both = min(views, teacher_views)
        crossed = -(others * log_p).sum() + (q[:both] * log_p[:both]).sum()
        if kind == "kl":
            meetings = views - (torch.arange(teacher_views, device=q.device) < views).to(dtype)
            crossed = crossed + (meetings * torch.xlogy(q, q).sum(dim=(1, 2))).sum()
        pairs = views * teacher_views - both
        return mean_over_ranks(crossed / (pairs * q.shape[1]), group)


def _checked(student_logits: Tensor, targets: Tensor, temperature: float, kind: str) -> tuple[int, int]:
    """Numbers of views of student and teacher."""
    if kind not in KINDS:
        raise ValueError(f"kind '{kind}' is not one of {', '.join(KINDS)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    if student_logits.ndim != 3 or targets.ndim != 3 or student_logits.shape[1:] != targets.shape[1:]:
        raise ValueError(
            "need student logits (Vs, n, K) and targets (Vt, n, K), "
            f"got {tuple(student_logits.shape)} and {tuple(targets.shape)}"
        )
    views, teacher_views = len(student_logits), len(targets)
    if not student_logits.numel() or not teacher_views or views * teacher_views < 2:
        raise ValueError(f"{views} student and {teacher_views} teacher views make no pair of different views")
    return views, teacher_views
