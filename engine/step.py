"""One optimiser step: teacher, forward, loss of the global batch, backward, update."""

from typing import NamedTuple

import torch
from torch import Tensor
from viewmill.engine.gradient_cache import GradientCache
from viewmill.engine.spans import Part, Spans, unmeasured
from viewmill.engine.step_buffers import StepBuffers
from viewmill.engine.teacher import Teacher
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.method import Method, MethodLoss, Values


class Step(NamedTuple):
    """What came of one optimiser step."""

    result: MethodLoss  # of the global batch
    embeddings: Tensor  # (V, A n, D), without gradient, as the loss took them
    targets: Tensor | None  # the teacher's, or the labels
    applied: bool
    overflowed: bool  # not applied, for a gradient too large for float16; the next one is scaled less


def train_step(
    engine: ZeroEngine,
    teacher: Teacher | None,
    micro_batches: list[list[Tensor]],
    values: Values,
    *,
    labels: Tensor,
    loss_in_float32: bool = True,
    spans: Spans = unmeasured,
) -> Step:
    """One optimiser step on this rank's A micro-batches, with the method's numbers of this step.

    Targets and loss are those of all micro-batches of all ranks, whatever A is: see `GradientCache`. The
    `labels` (A n,) of this rank's images reach a method that declares that it needs them, and no other.
    The loss takes embeddings in float32, or in the type that the network gives, and sums in float32 at least.
    A step whose loss or gradient is not finite is skipped on every rank alike, and the teacher stays.

    Args:
        micro_batches: A lists of V views (n, 3, S, S).
        spans: is told of teacher, forward, loss, backward and optimiser.
    """
    method: Method = engine.module.method
    targets = None
    if teacher is not None:
        with spans(Part.TEACHER):
            targets = teacher.targets(method, representations(teacher, micro_batches), values)
    elif method.needs_labels:
        targets = labels.to(micro_batches[0][0].device)
    cache = GradientCache(engine, micro_batches)
    with spans(Part.FORWARD):
        embeddings = cache.embed()  # (V, A n, D)
        embeddings = (embeddings.float() if loss_in_float32 else embeddings).requires_grad_()
    with spans(Part.LOSS):
        result = method.loss(embeddings, values, targets)
        # 0 x loss is 0, or NaN where the loss is not finite: such a gradient fails the engine's own check, on
        # every rank, without reading the loss back from the device.
        (gradient,) = torch.autograd.grad(result.loss * (1 + 0 * result.loss.detach()), embeddings)
    with spans(Part.BACKWARD):
        cache.backward(gradient)
    with spans(Part.OPTIMISER):
        applied = engine.step()
        if applied and teacher is not None:
            teacher.after_step(engine.module, values)
    # A loss that is no number is no matter of scale. It is read back here alone, and is equal on all ranks.
    overflowed = not applied and bool(result.loss.isfinite()) and engine.lower_loss_scale()
    seen = MethodLoss(result.loss.detach(), result.metrics)
    return Step(seen, embeddings.detach(), targets, applied, overflowed)


def representations(teacher: Teacher, micro_batches: list[list[Tensor]]) -> Tensor:
    """What the teacher says of all micro-batches, (Vt, A n, F); its running statistics move once."""
    buffers = StepBuffers(teacher, len(micro_batches))
    parts = []
    for views in micro_batches:
        buffers.begin()
        parts.append(teacher(views))
        buffers.end()
    buffers.settle()
    return torch.cat(parts, dim=1)
