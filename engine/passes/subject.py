"""What a diagnosis looks at: backbone and head of a checkpoint, as the method's statistics want them."""

# n images, F representation width, D embedding width

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from viewmill.engine.backbones import check_image_sizes
from viewmill.engine.checkpoints.errors import CheckpointError
from viewmill.engine.checkpoints.folder import Checkpoint
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig, config_from
from viewmill.engine.evaluation.features import evaluation_views
from viewmill.engine.export import TEACHER_PREFIX
from viewmill.engine.identity import weights_hash
from viewmill.engine.method_config import DistillConfig, MethodConfig
from viewmill.engine.model import build_student
from viewmill.engine.passes.cluster_prior import Streaming
from viewmill.engine.passes.cluster_source import streaming_prior, teacher_of
from viewmill.engine.scheduled import value_at
from viewmill.methods.cluster_head import ClusterHead
from viewmill.methods.method import Method
from viewmill.pipelines.views import ViewSpec


@dataclass(frozen=True)
class Subject:
    """A trained network in evaluation mode: a distillation's teacher, or the student of another method."""

    name: str  # for people; no path of a machine
    method: MethodConfig
    represent: Callable[[Tensor], Tensor]  # (n, 3, S, S) on the rank's device -> (n, F)
    embed: Callable[[Tensor], Tensor]  # (n, F) -> (n, D); of a distillation the features before their norm
    widths: tuple[int, int]  # F and D
    values: dict[str, float]  # the method's numbers where training stood
    views: ViewSpec  # one view a sample, nothing drawn
    about: dict[str, Any]  # JSON-able: what the rows depend on
    head: ClusterHead | None = None  # of a distillation's teacher
    streaming: Streaming | None = None


def subject_of(checkpoint: Checkpoint, device: torch.device, image_size: int | None = None) -> Subject:
    """The subject of a verified checkpoint.

    Args:
        image_size: side of the views, pixels; None: that of the run's global views.

    Raises:
        CheckpointError: it lacks a part, or settings and weights do not fit.
    """
    where = checkpoint.path.name
    config = config_from(checkpoint.state["config"], where=where)
    spec = resolve_views(config)
    views = evaluation_views(image_size or spec.sizes[0], spec.mean, spec.std)
    buffers, epoch = checkpoint.buffers(), int(checkpoint.state["loader"]["epoch"])
    values = {
        name: value_at(number, epoch, config.epochs) for name, number in config.method.scheduled().items()
    }
    found: dict[str, Any] = {"name": where, "method": config.method, "values": values, "views": views}
    if isinstance(config.method, DistillConfig):
        teacher = teacher_of(config, spec.sizes[0], buffers, where).to(device).eval()
        check_image_sizes(teacher.backbone, views.sizes)
        head = cast(ClusterHead, teacher.head)
        return Subject(
            **found,
            represent=lambda images: teacher([images])[0],
            embed=head.features,
            widths=(_width(teacher.backbone), head.feature_dim),
            about={"teacher": weights_hash(teacher), "backbone": config.model.backbone},
            head=head,
            streaming=streaming_prior(config.method, buffers),
        )
    student = _student_of(config, spec.sizes[0], checkpoint, buffers).to(device).eval()
    backbone: nn.Module = student.backbone
    method: Method = student.method
    check_image_sizes(backbone, views.sizes)
    with torch.no_grad():
        width = method.embed(torch.zeros(1, _width(backbone), device=device)).shape[1]
    return Subject(
        **found,
        represent=backbone,
        embed=method.embed,
        widths=(_width(backbone), width),
        about={"student": weights_hash(student), "backbone": config.model.backbone},
    )


def _student_of(config: RunConfig, size: int, checkpoint: Checkpoint, buffers: dict[str, Tensor]) -> Any:
    student = build_student(config.model, config.method, image_size=size, seed=0)
    own = {name: value for name, value in buffers.items() if not name.startswith(TEACHER_PREFIX)}
    try:
        student.load_state_dict({**checkpoint.read_full(), **own})
    except RuntimeError as error:
        raise CheckpointError(f"{checkpoint.path.name}: its student is not whole: {error}") from error
    return student


def _width(backbone: nn.Module) -> int:
    return int(backbone.num_features)  # type: ignore[arg-type]
