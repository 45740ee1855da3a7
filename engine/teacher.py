"""The teacher: a copy of the student that follows it, in float32, whole on every rank or cut like it."""

import copy
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from viewmill.engine.config import RunConfig
from viewmill.engine.cut import at_hand, cut
from viewmill.engine.method_config import CopyTeacher, DistillConfig, TeacherConfig
from viewmill.engine.model import Student, parts_of, represent
from viewmill.engine.partition import here, whole_state, write
from viewmill.methods.method import Method, Values

# What its backbone multiplies in, as the student does. No scale is needed: it has no gradients.
HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Teacher(nn.Module):
    """Backbone and head of the student as they were, and how they follow it.

    It is made from weights that are equal on every rank and follows weights that are: no rank sends anything.
    At ZeRO 3 each rank has, and lets follow, its share alone; a forward gathers the weights of a layer.
    It sees the largest views of the batch, in training mode, so its BatchNorm takes the statistics of the
    global batch, of the views together or of each as the student's does; its head sees them together. Its
    running statistics are of its own batches. Under bf16 and fp16 its backbone computes in
    that type, and its float32 weights follow the weights that the student computes with.

    Args:
        student: before it is handed to DeepSpeed; on its device.
        config: `ema` or `copy`.
        precision: the run's.
    """

    def __init__(self, student: Student, config: TeacherConfig, precision: str) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(student.backbone).requires_grad_(False)
        self.head = copy.deepcopy(student.method.head).requires_grad_(False)
        self.config, self.layout, self.at_once = config, student.layout, student.at_once
        self.half_type = HALF_TYPES.get(precision)
        self.is_cut = False

    @torch.no_grad()
    def forward(self, views: list[Tensor]) -> Tensor:
        """Representations (Vt, n, F), float32, of the views that are as large as the first one."""
        largest = [view for view in views if view.shape[-1] == views[0].shape[-1]]
        with torch.autocast(views[0].device.type, self.half_type, enabled=self.half_type is not None):
            parts = [represent(self.backbone, part, self.layout) for part in parts_of(largest, self.at_once)]
        # Its head is small, and its targets are worth float32.
        return torch.cat(parts).float().view(len(largest), len(largest[0]), -1)

    def before_epoch(self, student: Student, epoch: int) -> None:
        """`copy`: takes over weights and buffers where a period begins."""
        if isinstance(self.config, CopyTeacher) and epoch % self.config.every_epochs == 0:
            self._follow(student, 0.0)
            for own, theirs in zip(self.buffers(), _buffers(student), strict=True):
                own.copy_(theirs)

    def after_step(self, student: Student, values: Values) -> None:
        """`ema`: w <- momentum w + (1 - momentum) w of the student. After the update, so that it averages
        weights that were trained on; not after a skipped step.
        """
        if not isinstance(self.config, CopyTeacher):
            self._follow(student, values["teacher_momentum"])

    @torch.no_grad()
    def _follow(self, student: Student, momentum: float) -> None:
        for weight, its in zip(self.parameters(), _parameters(student), strict=True):
            own, theirs = here(weight), here(its)
            if momentum:
                own.lerp_(theirs.to(own.dtype), 1 - momentum)
            else:
                own.copy_(theirs)

    def targets(self, method: Method, representations: Tensor, values: Values) -> Tensor:
        """The method's targets of what the teacher says of the views."""
        # Its layers gather their weights themselves; the directions of the clusters belong to none.
        with at_hand(self.head):
            return method.targets(self.head, representations, values)

    def saved(self, is_kept: bool = True) -> dict[str, Tensor]:
        """Its tensors by their names, whole; all ranks call it.

        Below stage 3 they are the teacher's own. At stage 3 they are copies in the host's memory, gathered
        one by one; a rank that does not keep them gets none.
        """
        found = {}
        for name, tensor in whole_state(self):
            if not self.is_cut:
                found[name] = tensor
            elif is_kept:
                found[name] = tensor.cpu()
        return found

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Takes what `saved` gave, on a rank that keeps it."""
        for name, tensor in self.state_dict(keep_vars=True).items():
            write(tensor, values[name])

    def cut(self) -> None:
        """From now on each rank has a share of each weight, which follows its share of the student's."""
        cut(self)
        self.is_cut = True


def build_teacher(student: Student, config: RunConfig) -> Teacher | None:
    """The teacher that the method asks for; None: it has none."""
    if not isinstance(config.method, DistillConfig):
        return None
    teacher = Teacher(student, config.method.teacher, config.precision)
    if config.zero.stage == 3:
        teacher.cut()
    return teacher


def _parameters(student: Student) -> Iterator[nn.Parameter]:
    yield from student.backbone.parameters()
    yield from student.method.head.parameters()


def _buffers(student: Student) -> Iterator[Tensor]:
    yield from student.backbone.buffers()
    yield from student.method.head.buffers()
