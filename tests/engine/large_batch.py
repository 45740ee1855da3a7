"""A step on a whole batch by plain torch, and the same step by micro-batches.

The reference knows nothing of the engine: one process, one forward of all images, torch's own optimiser.
"""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from viewmill.engine.batchnorm import convert_batchnorm
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student, build_student
from viewmill.engine.partition import whole_state
from viewmill.engine.step import Step, train_step
from viewmill.engine.teacher import build_teacher
from viewmill.engine.world import World
from viewmill.engine.zero import ZeroEngine, initialize
from viewmill.methods.method import Method, Values

from tests.engine.tiny import tiny_config

BATCH, STEPS, CLASSES = 8, 3, 4
LINEAR = {"layers": 1, "dim": 16}  # without BatchNorm, whose statistics are of a forward
METHODS: dict[str, dict[str, Any]] = {
    "hydes": {"kappa": 5.0, "beta": 0.5, "projector": LINEAR},
    "imsvd": {"name": "imsvd", "variables": 4, "units": 8, "projector": {"layers": 1}},
    "distill": {
        "name": "distill",
        "num_clusters": 12,
        "projector": LINEAR,
        "teacher": {"kind": "ema", "momentum": 0.9},
        "teacher_temperature": 0.2,
        "prior_iterations": 2,  # the prior is that of the batch, and must be that of all micro-batches
    },
    "labels": {"name": "supervised", "num_classes": CLASSES},
}
VALUES: dict[str, dict[str, float]] = {
    "hydes": {"kappa": 5.0, "alpha": 1.0, "beta": 0.5},
    "imsvd": {"weight": 1.0, "temperature": 1.0},
    "distill": {"student_temperature": 0.1, "teacher_temperature": 0.2, "teacher_momentum": 0.9},
    "labels": {},
}


def settings(method: str, /, **changes: Any) -> RunConfig:
    """SGD: it keeps differences of gradients as small as they are, where AdamW enlarges rounding."""
    tree: dict[str, Any] = {
        "batch_size": BATCH,
        "model": {"backbone": "test_vit"},  # LayerNorm
        "method": METHODS[method],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "clip_grad_norm": 0.5},
    }
    return tiny_config(**(tree | changes))


def student_of(config: RunConfig, dtype: torch.dtype = torch.float32) -> Student:
    return build_student(config.model, config.method, image_size=32, seed=0).to(dtype).train()


def views_of(step: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The global batch of a step: 2 views of one size, and for variety a darker second one."""
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(2, BATCH, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)
    return [images[0], 0.5 * images[0] + images[1]]


def labels_of(step: int) -> Tensor:
    return torch.randint(CLASSES, (BATCH,), generator=torch.Generator().manual_seed(100 + step))


def parts_of(rank: int, world_size: int, accumulation: int) -> list[slice]:
    """The places of a rank's micro-batches in the global batch: DESIGN.md, section 3."""
    size = BATCH // (accumulation * world_size)
    starts = [BATCH * a // accumulation + rank * size for a in range(accumulation)]
    return [slice(start, start + size) for start in starts]


def loss_of_large_batch(
    method: str, student: Student, teacher: tuple[nn.Module, nn.Module] | None, step: int
) -> tuple[Tensor, Tensor]:
    """Embeddings of the global batch and its loss, with graph."""
    dtype = next(student.parameters()).dtype
    views, values, targets = views_of(step, dtype), VALUES[method], None
    if teacher is not None:
        backbone, head = teacher
        with torch.no_grad():
            said = backbone(torch.cat(views)).view(len(views), BATCH, -1)
        targets = student.method.targets(head, said, values)
    elif method == "labels":
        targets = labels_of(step)
    embeddings = student(views)
    return embeddings, student.method.loss(embeddings, values, targets).loss


def teacher_of(method: str, student: Student) -> tuple[nn.Module, nn.Module] | None:
    if method != "distill":
        return None
    return copy.deepcopy(student.backbone), copy.deepcopy(student.method.head)


def large_batch_run(method: str) -> dict[str, Any]:
    """Losses and final weights of some steps on one process by torch's own means."""
    config = settings(method)
    student = student_of(config)
    teacher = teacher_of(method, student)
    decayed = [weight for weight in student.parameters() if weight.ndim >= 2]
    others = [weight for weight in student.parameters() if weight.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.optimizer.weight_decay}, {"params": others}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    losses, norms = [], []
    for step in range(STEPS):
        _, loss = loss_of_large_batch(method, student, teacher, step)
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(student.parameters(), 0.5)))
        optimizer.step()
        losses.append(loss.item())
        if teacher is not None:
            follow(teacher, student)
    return {"losses": losses, "norms": norms, "moved": moved(config, student)}


def moved(config: RunConfig, student: nn.Module) -> dict[str, Tensor]:
    """How far each weight and each running statistic is from where it was drawn."""
    drawn = student_of(config).state_dict()
    now = whole_state(student)
    return {name: value - drawn[name] for name, value in now if value.is_floating_point()}


@torch.no_grad()
def follow(teacher: tuple[nn.Module, nn.Module], student: Student) -> None:
    for own, theirs in zip(teacher, (student.backbone, student.method.head), strict=True):
        for old, new in zip(own.parameters(), theirs.parameters(), strict=True):
            old.copy_(0.9 * old + 0.1 * new)


def micro_batch_run(
    method: str, world: World, /, *, stage: int, accumulation: int, steps: int = STEPS, **changes: Any
) -> dict[str, Any]:
    """The same on this rank by `train_step`."""
    config = settings(method, zero={"stage": stage}, accumulation=accumulation, **changes)
    student: Any = convert_batchnorm(student_of(config), world.device)
    teacher = build_teacher(student, config)
    engine = initialize(student, config, world)
    losses, norms = [], []
    for step in range(steps):
        done = step_of(engine, teacher, VALUES[method], step, accumulation)
        losses.append(done.result.loss.item())
        norms.append(engine.grad_norm())
    return {"losses": losses, "norms": norms, "moved": moved(config, student)}


def step_of(
    engine: ZeroEngine, teacher: Any, values: Values, step: int, accumulation: int, spoilt: int | None = None
) -> Step:
    """One step on this rank's share; image `spoilt` of the global batch is no numbers."""
    parts = parts_of(engine.world.rank, engine.world.world_size, accumulation)
    dtype = next(engine.module.parameters()).dtype
    views, labels = views_of(step, dtype), labels_of(step)
    if spoilt is not None:
        views[0][spoilt] = torch.nan
    return train_step(
        engine,
        teacher,
        [[view[part] for view in views] for part in parts],
        values,
        labels=torch.cat([labels[part] for part in parts]),
        loss_in_float32=dtype != torch.float64,
    )


class PlainDeepSpeed:
    """In DeepSpeed's place where a test wants float64: leaves a rank's own gradients, updates nothing."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.optimizer = module, SimpleNamespace(overflow=False)
        self.backwards = 0

    def __call__(self, *inputs: Any) -> Any:
        return self.module(*inputs)

    def backward(self, loss: Tensor) -> None:
        self.backwards += 1
        loss.backward()

    def step(self) -> None: ...

    def was_step_applied(self) -> bool:
        return True


def plain_engine(module: nn.Module, world: World) -> ZeroEngine:
    deepspeed: Any = PlainDeepSpeed(module)
    return ZeroEngine(deepspeed, deepspeed.optimizer, settings("hydes"), world)


def own_gradients(method: str, world: World, accumulation: int) -> dict[str, Tensor]:
    """What one step by micro-batches leaves on this rank's weights, before ranks meet; float64."""
    config = settings(method)
    student = student_of(config, torch.float64)
    teacher: Any = None
    if method == "distill":
        teacher = SimpleTeacher(*(teacher_of(method, student) or ()))
    engine = plain_engine(student, world)
    step_of(engine, teacher, VALUES[method], 0, accumulation)
    return gradients_of(student)


class SimpleTeacher(nn.Module):
    """A teacher in float64; the engine's own is float32 by contract."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    @torch.no_grad()
    def forward(self, views: list[Tensor]) -> Tensor:
        said: Tensor = self.backbone(torch.cat(views))
        return said.view(len(views), len(views[0]), -1)

    def targets(self, method: Method, representations: Tensor, values: Values) -> Tensor:
        return method.targets(self.head, representations, values)

    def after_step(self, student: nn.Module, values: Values) -> None: ...


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def large_batch_gradients(
    method: str, rank: int, world_size: int, accumulation: int = 1
) -> dict[str, Tensor]:
    """W times a rank's part of the global gradient, float64: from one process on the whole batch."""
    student = student_of(settings(method), torch.float64)
    embeddings, loss = loss_of_large_batch(method, student, teacher_of(method, student), 0)
    (pull,) = torch.autograd.grad(loss, embeddings, retain_graph=True)
    own = torch.zeros(BATCH, dtype=torch.bool)
    for part in parts_of(rank, world_size, accumulation):
        own[part] = True
    return gradients_by(student, embeddings, world_size * pull * own[:, None])


def gradients_by(module: nn.Module, embeddings: Tensor, pull: Tensor) -> dict[str, Tensor]:
    named = dict(module.named_parameters())
    found = torch.autograd.grad(embeddings, list(named.values()), pull, allow_unused=True)
    return {name: part for name, part in zip(named, found, strict=True) if part is not None}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Of any tensor, relative to the length of all of them together."""
    assert left.keys() == right.keys()
    length = torch.cat([value.flatten() for value in right.values()]).norm()
    return max(float((left[name] - value).norm() / length) for name, value in right.items())


# (ZeRO stage, micro-batches of a rank)
SPLITS = [(stage, accumulation) for stage in (0, 1, 2, 3) for accumulation in (1, 2, 4)]


def assert_same_training(found: dict[str, Any], expected: dict[str, Any], bound: float = 5e-6) -> None:
    """Losses, gradient norms, and how far weights have moved, within the order of float32 sums."""
    assert found["losses"] == pytest.approx(expected["losses"], rel=bound / 2, abs=bound / 2)  # nats
    assert found["norms"] == pytest.approx(expected["norms"], rel=bound / 2)
    assert largest_difference(found["moved"], expected["moved"]) <= bound
