"""The teacher: a copy of the student that follows it, equal on every rank, in float32."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from viewmill.engine.config import RunConfig
from viewmill.engine.method_config import CopyTeacher, DistillConfig, TeacherConfig
from viewmill.engine.model import Student, represent


class Teacher(nn.Module):
    """Backbone and head of the student as they were, and how they follow it.

    It is made from weights that are equal on every rank and follows weights that are: no rank sends anything.
    It sees the largest views of the batch, in training mode, so its BatchNorm takes the statistics of the
    global batch; its running statistics are of its own batches. Under bf16 its backbone computes in bfloat16,
    and its float32 weights follow the weights that the student computes with.

    Args:
        student: before it is handed to DeepSpeed; on its device.
        config: `ema` or `copy`.
        precision: the run's.
    """

    def __init__(self, student: Student, config: TeacherConfig, precision: str) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(student.backbone).requires_grad_(False)
        self.head = copy.deepcopy(student.method.head).requires_grad_(False)
        self.config, self.layout, self.is_bf16 = config, student.layout, precision == "bf16"

    @torch.no_grad()
    def forward(self, views: list[Tensor]) -> Tensor:
        """Representations (Vt, n, F), float32, of the views that are as large as the first one."""
        largest = [view for view in views if view.shape[-1] == views[0].shape[-1]]
        with torch.autocast(views[0].device.type, torch.bfloat16, enabled=self.is_bf16):
            representation = represent(self.backbone, largest, self.layout)
        # Its head is small, and its targets are worth float32.
        return representation.float().view(len(largest), len(largest[0]), -1)

    def before_epoch(self, student: Student, epoch: int) -> None:
        """`copy`: takes over weights and buffers where a period begins."""
        if isinstance(self.config, CopyTeacher) and epoch % self.config.every_epochs == 0:
            self._follow(student, 0.0)
            for own, theirs in zip(self.buffers(), _buffers(student), strict=True):
                own.copy_(theirs)

    def after_step(self, student: Student, values: Mapping[str, float]) -> None:
        """`ema`: w <- momentum w + (1 - momentum) w of the student. After the update, so that it averages
        weights that were trained on; not after a skipped step.
        """
        if not isinstance(self.config, CopyTeacher):
            self._follow(student, values["teacher_momentum"])

    @torch.no_grad()
    def _follow(self, student: Student, momentum: float) -> None:
        for own, theirs in zip(self.parameters(), _parameters(student), strict=True):
            if momentum:
                own.lerp_(theirs.to(own.dtype), 1 - momentum)
            else:
                own.copy_(theirs)


def build_teacher(student: Student, config: RunConfig) -> Teacher | None:
    """The teacher that the method asks for; None: it has none."""
    if not isinstance(config.method, DistillConfig):
        return None
    return Teacher(student, config.method.teacher, config.precision)


def _parameters(student: Student) -> Iterator[nn.Parameter]:
    yield from student.backbone.parameters()
    yield from student.method.head.parameters()


def _buffers(student: Student) -> Iterator[Tensor]:
    yield from student.backbone.buffers()
    yield from student.method.head.buffers()
