"""New values for the head reach the student, its optimiser and the teacher, and nothing else."""

from typing import Any

import pytest
import torch
from torch import Tensor
from viewmill.engine.checks import resolve_views
from viewmill.engine.fragments import slots
from viewmill.engine.partition import whole, whole_state
from viewmill.engine.refresh import replace_in_head
from viewmill.engine.teacher import Teacher, build_teacher
from viewmill.engine.train import prepare_student
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine, initialize

from tests.engine.tiny import tiny_config

pytestmark = pytest.mark.slow
NAME = "method.head.directions"
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}


def trained(world: World, clusters: str = "learned", **changes: Any) -> tuple[ZeroEngine, Teacher]:
    """Student and teacher after one step, with an optimiser that has a past."""
    method = {
        "name": "distill",
        "num_clusters": 7,
        "clusters": clusters,
        "projector": {"layers": 1, "dim": 5},
    }
    chosen = tiny_config(method=method, **changes)
    student = prepare_student(chosen, resolve_views(chosen), world)
    teacher = build_teacher(student, chosen)
    assert teacher is not None
    engine = initialize(student, chosen, world)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    engine.backward(engine([images]).float().square().mean())
    assert engine.step()
    return engine, teacher


def kept(engine: ZeroEngine, teacher: Teacher) -> dict[str, Tensor]:
    """Every number of weights, optimiser state, buffers and teacher."""
    found = {f"{slot.name} {kind}": x.clone() for slot in slots(engine) for kind, x in slot.tensors.items()}
    found |= {f"{name} buffer": x.clone() for name, x in engine.module.named_buffers()}
    return found | {f"{name} teacher": x.clone() for name, x in whole_state(teacher)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": SGD},
        {"zero": {"stage": 1}},
        {"zero": {"stage": 2}, "precision": "bf16"},
        {"zero": {"stage": 3}},
        {"zero": {"stage": 3}, "precision": "bf16"},
        {"precision": "bf16", "optimizer": SGD},
        {"clusters": "fixed"},
    ],
)
def test_only_the_directions_and_their_mean_gradient_change(world: World, changes: dict[str, Any]) -> None:
    engine, teacher = trained(world, **changes)
    before = kept(engine, teacher)
    new = torch.nn.functional.normalize(torch.randn(7, 5, generator=torch.Generator().manual_seed(3)), dim=1)
    replace_in_head(engine, teacher, {"directions": new})
    after = kept(engine, teacher)
    past = f"{NAME} {'momentum_buffer' if 'optimizer' in changes else 'exp_avg'}"
    own = {f"{NAME} buffer"} if "clusters" in changes else {f"{NAME} weight", past}
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == own | {"head.directions teacher"}
    assert torch.equal(after["head.directions teacher"], new)
    if "clusters" not in changes:
        assert torch.equal(after[f"{NAME} weight"].flatten(), new.flatten())
        assert not after[past].any()
    # What the network computes with: rounded under bf16.
    used = whole(engine.module.method.head.directions)
    assert torch.equal(used, new.to(used.dtype))


def test_nothing_new_changes_nothing(world: World) -> None:
    engine, teacher = trained(world)
    before = kept(engine, teacher)
    replace_in_head(engine, teacher, {})
    after = kept(engine, teacher)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tensor_that_the_head_does_not_have_is_refused(world: World) -> None:
    engine, teacher = trained(world)
    with pytest.raises(KeyError, match="direction"):
        replace_in_head(engine, teacher, {"direction": torch.zeros(7, 5)})
