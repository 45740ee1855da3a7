"""One optimiser step: teacher, forward, loss of the global batch, backward, update."""

from typing import NamedTuple

from torch import Tensor
from viewmill.engine.teacher import Teacher
from viewmill.engine.zero import ZeroEngine
from viewmill.methods.method import Method, MethodLoss, Values


class Step(NamedTuple):
    """What came of one optimiser step."""

    result: MethodLoss  # of the global batch
    embeddings: Tensor  # (V, n, D), without gradient
    targets: Tensor | None  # the teacher's, or the labels
    applied: bool


def train_step(
    engine: ZeroEngine,
    teacher: Teacher | None,
    views: list[Tensor],
    values: Values,
    *,
    labels: Tensor,
    loss_in_float32: bool = True,
) -> Step:
    """One optimiser step on this rank's views, with the method's numbers of this step.

    The `labels` (n,) of this rank's images reach a method that declares that it needs them, and no other.
    The loss takes embeddings in float32, or in the type that the network gives, and sums in float32 at least.
    A step whose loss or gradient is not finite is skipped on every rank alike, and the teacher stays.
    """
    method: Method = engine.module.method
    targets = None
    if teacher is not None:
        targets = method.targets(teacher.head, teacher(views), values)
    elif method.needs_labels:
        targets = labels.to(views[0].device)
    embeddings = engine(views)  # (V, n, D)
    embeddings = embeddings.float() if loss_in_float32 else embeddings
    result = method.loss(embeddings, values, targets)
    # 0 x loss is 0, or NaN where the loss is not finite: such a gradient fails the engine's own check, on
    # every rank, without reading the loss back from the device.
    engine.backward(result.loss * (1 + 0 * result.loss.detach()))
    applied = engine.step()
    if applied and teacher is not None:
        teacher.after_step(engine.module, values)
    return Step(result, embeddings.detach(), targets, applied)
