"""The teacher: how its weights follow the student's."""

import pytest
import torch
from torch import Tensor
from viewmill.engine.config import ModelConfig
from viewmill.engine.method_config import CopyTeacher, DistillConfig, EmaTeacher, ProjectorConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.teacher import Teacher

METHOD = DistillConfig(num_clusters=8, projector=ProjectorConfig(layers=2, hidden=16, dim=8))


@pytest.fixture
def student() -> Student:
    return build_student(ModelConfig(backbone="test_resnet"), METHOD, image_size=32, seed=0)


def moved(student: Student) -> None:
    """As after some training: other weights, other BatchNorm statistics."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
        for buffer in student.buffers():
            buffer += 1


def views(*sizes: int) -> list[Tensor]:
    return [torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(size)) for size in sizes]


def test_it_begins_as_the_student_and_sees_the_largest_views(student: Student) -> None:
    teacher = Teacher(student, EmaTeacher(), "fp32")
    said = teacher(views(32, 32, 16))
    assert said.shape == (2, 4, student.backbone.num_features)
    assert not said.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    own, theirs = teacher.state_dict(), student.state_dict()
    weights = [name for name, _ in teacher.named_parameters()]
    assert all(torch.equal(own[name], theirs[name.replace("head.", "method.head.", 1)]) for name in weights)


def test_its_backbone_sees_each_view_by_itself_where_the_students_does(student: Student) -> None:
    student.at_once, seen = "view", []
    teacher = Teacher(student, EmaTeacher(), "fp32")
    teacher.backbone.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    assert teacher([torch.randn(4, 3, size, size) for size in (32, 32, 16)]).shape[:2] == (2, 4)
    assert seen == [4, 4]


def test_a_running_mean_moves_by_the_rest_of_the_momentum(student: Student) -> None:
    teacher = Teacher(student, EmaTeacher(), "fp32")
    before = [parameter.clone() for parameter in teacher.parameters()]
    moved(student)
    teacher.before_epoch(student, 0)
    teacher.after_step(student, {"teacher_momentum": 0.75})
    for old, new in zip(before, teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.25)


def test_a_running_mean_of_bfloat16_weights_stays_float32(student: Student) -> None:
    teacher = Teacher(student, EmaTeacher(), "bf16")
    before = [parameter.clone() for parameter in teacher.parameters()]
    student.bfloat16()
    moved(student)
    for _ in range(3):
        teacher.after_step(student, {"teacher_momentum": 0.999})
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
    assert all(not torch.equal(old, new) for old, new in zip(before, teacher.parameters(), strict=True))
    assert teacher([view.bfloat16() for view in views(32, 32)]).dtype == torch.float32


def test_a_copy_takes_weights_and_statistics_at_the_start_of_a_period(student: Student) -> None:
    teacher = Teacher(student, CopyTeacher(every_epochs=2), "fp32")
    moved(student)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.after_step(student, {})
    teacher.before_epoch(student, 3)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    teacher.before_epoch(student, 4)
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name] + 1), name
