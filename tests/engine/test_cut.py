"""A teacher that is cut over the ranks: the same numbers as a whole one, and a layer at a time."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from viewmill.engine.config import ModelConfig, RunConfig
from viewmill.engine.cut import at_hand, cut, held_whole
from viewmill.engine.method_config import CopyTeacher, DistillConfig, EmaTeacher, ProjectorConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.partition import here, whole_state
from viewmill.engine.teacher import Teacher
from viewmill.engine.telemetry import read_lines
from viewmill.engine.train import train
from viewmill.engine.world import World, start_world, stop_world

from tests.engine.small_training import equal
from tests.engine.tiny import tiny_config, tiny_data_set
from tests.support import run_ranks

pytestmark = pytest.mark.slow
METHOD = DistillConfig(num_clusters=9, projector=ProjectorConfig(layers=2, hidden=16, dim=7))


@pytest.fixture
def world() -> Iterator[World]:
    world = start_world("cpu")
    yield world
    stop_world(world)


def student_of(backbone: str) -> Student:
    return build_student(ModelConfig(backbone=backbone), METHOD, image_size=32, seed=0)


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, size, size, generator=generator) for size in (32, 32, 16)]


def alike(backbone: str, config: Any) -> bool:
    """Whether a teacher that is cut says and becomes, to the bit, what a whole one does.

    The student is cut too, as at stage 3, and moves between two looks.
    """
    student = student_of(backbone)
    cut_student = copy.deepcopy(student).requires_grad_(False)
    plain, shares = Teacher(student, config, "fp32"), Teacher(student, config, "fp32")
    shares.cut()
    cut(cut_student)
    same = True
    for epoch in range(2):
        with torch.no_grad():
            for weight, share in zip(student.parameters(), cut_student.parameters(), strict=True):
                weight *= 1.5
                here(share).mul_(1.5)
        for teacher, source in ((plain, student), (shares, cut_student)):
            teacher.before_epoch(source, epoch)
            teacher.after_step(source, {"teacher_momentum": 0.75})
        said = [teacher(views()) for teacher in (plain, shares)]
        with at_hand(shares.head):
            logits = [one.head.logits(one.head.features(said[0][0])) for one in (plain, shares)]
        same &= torch.equal(*said) and torch.equal(*logits) and equal(plain.saved(), shares.saved())
    return same and not any(weight.numel() for weight in shares.parameters())


def on_two_ranks(rank: int) -> list[bool]:
    return [alike(backbone, config) for backbone in ("test_vit", "test_resnet") for config in CONFIGS]


CONFIGS = (EmaTeacher(), CopyTeacher(every_epochs=1))


def test_it_is_the_whole_teacher_bit_for_bit_on_one_rank_and_on_two(world: World) -> None:
    assert on_two_ranks(0) == [True] * 4
    assert run_ranks(2, on_two_ranks) == [[True] * 4] * 2


def test_a_forward_has_the_weights_of_few_layers_at_once(world: World) -> None:
    teacher = Teacher(student_of("test_vit"), EmaTeacher(), "fp32")
    total = sum(weight.numel() for weight in teacher.parameters())
    teacher.cut()
    there: list[int] = []
    for layer in teacher.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(lambda *_: there.append(sum(w.numel() for w in teacher.parameters())))
    teacher(views())
    assert 0 < max(there) < total / 3


def test_held_whole_it_says_the_same_and_gathers_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Teacher(student_of("test_vit"), EmaTeacher(), "fp32")
    teacher.cut()
    expected = teacher(views())
    with held_whole(teacher), monkeypatch.context() as patch:
        assert all(weight.numel() == weight.ds_numel for weight in teacher.parameters())
        patch.delattr(torch.distributed, "all_gather_into_tensor")
        for _ in range(2):
            assert torch.equal(teacher(views()), expected)
        with at_hand(teacher.head):
            assert teacher.head.directions.numel()
    assert not any(weight.numel() for weight in teacher.parameters())
    assert torch.equal(teacher(views()), expected)


def test_what_is_saved_is_loaded_by_a_teacher_that_is_cut_and_by_one_that_is_not(world: World) -> None:
    source = Teacher(student_of("test_resnet"), EmaTeacher(), "fp32")
    with torch.no_grad():
        for tensor in source.state_dict().values():
            tensor += 1
    for is_cut in (True, False):
        other = Teacher(student_of("test_resnet"), EmaTeacher(), "fp32")
        if is_cut:
            other.cut()
        assert not equal(other.saved(), source.saved())
        other.load(source.saved())
        assert equal(other.saved(), source.saved())
        assert equal(dict(whole_state(other)), source.saved())
    assert other.saved(is_kept=False).keys() == source.saved().keys()


def distillation(stage: int, **changes: Any) -> RunConfig:
    method = {"name": "distill", "num_clusters": 8, "projector": {"layers": 1, "dim": 8}, "export": "teacher"}
    own = {"model": {"backbone": "test_vit"}, "method": method, "zero": {"stage": stage}}
    return tiny_config(**(own | {"evaluation": {"tasks": ["knn@5"]}} | changes))


def test_a_distillation_in_bf16_has_at_stage_3_the_losses_and_the_teacher_of_stage_0(
    world: World, tmp_path: Path
) -> None:
    data = tiny_data_set(tmp_path / "train", 24)
    for stage in (0, 3):
        told = distillation(stage, precision="bf16", max_steps=4, optimizer={"name": "sgd", "lr": 0.05})
        train(told, data, tmp_path / f"stage {stage}", world=world)
    runs = [tmp_path / f"stage {stage}" for stage in (0, 3)]
    whole, shares = ([line["loss"] for line in read_lines(run / "metrics.jsonl")] for run in runs)
    assert shares == pytest.approx(whole, rel=1e-3)  # bfloat16 keeps 8 bits of what the layers say
    whole, shares = (load_file(run / "export" / "backbone.safetensors") for run in runs)
    for name, tensor in whole.items():
        assert shares[name].dtype == torch.float32
        torch.testing.assert_close(shares[name], tensor, rtol=1e-2, atol=1e-4)


def test_a_distillation_goes_from_stage_0_to_3_and_on_to_1(world: World, tmp_path: Path) -> None:
    data, test = tiny_data_set(tmp_path / "train", 26), tiny_data_set(tmp_path / "test", 40, 1000)
    train(distillation(0), data, tmp_path / "plain", on=test, world=world)
    for stage, stop in ((0, 3), (3, 8), (1, None)):
        chosen = distillation(stage, max_steps=stop)
        train(chosen, data, tmp_path / "moved", on=test, resume=stop != 3, world=world)
    runs = tmp_path / "plain", tmp_path / "moved"
    plain, moved = ([line["loss"] for line in read_lines(run / "metrics.jsonl")] for run in runs)
    assert moved == pytest.approx(plain, rel=1e-5)  # float32 sums in another order
    plain, moved = (load_file(run / "export" / "backbone.safetensors") for run in runs)
    for name, tensor in plain.items():
        torch.testing.assert_close(moved[name], tensor, rtol=1e-4, atol=1e-5)
    events = read_lines(tmp_path / "moved" / "events.jsonl")
    assert [line["zero_stage"] for line in events if line["event"] == "resume"] == [3, 1]
    assert sum(line["event"] == "evaluation" for line in events) >= 4
