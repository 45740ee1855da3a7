"""What one image costs a student: floating-point operations, kept activations and weights, on no device."""

# V views of an image; all counts are of one image where nothing else is said

from typing import Any, NamedTuple, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig
from viewmill.engine.model import Student, build_student, parts_of, represent
from viewmill.methods.families.distillation import Distillation

FLOAT32 = 4  # bytes
IMAGES = 2  # a BatchNorm of a head needs two values a channel


class Workload(NamedTuple):
    """A recipe as numbers. FLOPs are multiplications and additions, so a product of matrices has 2 m n k."""

    sizes: tuple[int, ...]  # of the views, pixels
    conv_flops: float  # of the forward, of all views of an image
    matmul_flops: float  # the same, of linear layers and attention, the head's included
    teacher_conv_flops: float  # of the teacher's forward, of its views
    teacher_matmul_flops: float
    activation_bytes: float  # that autograd keeps of the forward, in float32
    weights: int  # numbers
    head_weights: int  # of these, the method's
    embedding_dim: int
    view_pixels: int  # of all views
    batchnorm_channels: tuple[int, ...]  # of each BatchNorm forward of a step, in no order
    teacher_batchnorm_channels: tuple[int, ...]  # of the teacher's
    batchnorm_numbers: float = 0.0  # that the student's BatchNorms normalise
    forwards: int = 1  # of the backbone, until all views of a batch have gone through

    @property
    def num_views(self) -> int:
        return len(self.sizes)

    @property
    def step_flops(self) -> float:
        """Forward and backward of the student, which takes two forwards, and the teacher's forward."""
        student = 3 * (self.conv_flops + self.matmul_flops)
        return student + self.teacher_conv_flops + self.teacher_matmul_flops


def count_workload(config: RunConfig) -> Workload:
    """Counts a recipe by one forward of two images on torch's meta device: no number is computed.

    FLOPs are those of convolutions, linear layers and attention, as torch.utils.flop_counter has them.

    Raises:
        ConfigError, ValueError: views or backbone do not exist or do not fit.
    """
    spec = resolve_views(config)
    with torch.device("meta"):
        model = config.model.model_copy(update={"compile": False, "checkpoint_activations": False})
        student = build_student(model, config.method, image_size=spec.sizes[0], seed=0).train()
        views = [torch.empty(IMAGES, 3, size, size) for size in spec.sizes]
    weights, head = (
        sum(weight.numel() for weight in part.parameters()) for part in (student, student.method)
    )
    norms, its_norms = _NormCalls(student), _NormCalls(student)
    with (
        mock.patch.object(F, "scaled_dot_product_attention", _fused_attention),
        FlopCounterMode(display=False) as flops,
        _Kept(student) as kept,
        norms,
    ):
        embeddings = _embeddings(student, views)
    conv, matmul = _by_kind(flops)
    teacher = (0.0, 0.0)
    if isinstance(student.method, Distillation):
        largest = [view for view in views if view.shape[-1] == views[0].shape[-1]]
        with FlopCounterMode(display=False) as its, torch.no_grad(), its_norms:
            _embeddings(student, largest)
        teacher = _by_kind(its)
    return Workload(
        sizes=tuple(spec.sizes),
        conv_flops=conv,
        matmul_flops=matmul,
        teacher_conv_flops=teacher[0],
        teacher_matmul_flops=teacher[1],
        activation_bytes=kept.bytes / IMAGES,
        weights=weights,
        head_weights=head,
        embedding_dim=embeddings.shape[1],
        view_pixels=sum(size**2 for size in spec.sizes),
        batchnorm_channels=tuple(norms.channels),
        teacher_batchnorm_channels=tuple(its_norms.channels),
        batchnorm_numbers=norms.numbers / IMAGES,
        forwards=sum(len(parts_of(part, "size")) for part in parts_of(views, student.at_once)),
    )


def _embeddings(student: Student, views: list[Tensor]) -> Tensor:
    """As `Student.forward`; the clusters' head asks for autocast, which meta tensors do not have."""
    method = student.method
    found = []
    for part in parts_of(views, student.at_once):
        rows = represent(student.backbone, part, student.layout)
        if isinstance(method, Distillation):
            found.append(F.linear(method.head.features(rows), method.head.directions))
        else:
            found.append(method.embed(rows))
    return torch.cat(found)


def _by_kind(flops: FlopCounterMode) -> tuple[float, float]:
    """(convolutions, all else), of one image."""
    counts: dict[Any, int] = dict(flops.get_flop_counts()["Global"])
    conv = sum(count for name, count in counts.items() if "convolution" in str(name))
    return conv / IMAGES, (sum(counts.values()) - conv) / IMAGES


def _fused_attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """What fused kernels multiply and keep, which devices have and the meta device has not."""
    attended: Tensor = _FusedAttention.apply(q, k, v)
    return attended


class _FusedAttention(torch.autograd.Function):
    """Keeps its inputs, its output and a number a row; the matrix of all pairs is made again."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Heads innermost but one, as the kernels write it: what joins the heads is then a view of it.
        attended = ((q @ k.transpose(-2, -1)) @ v).transpose(1, 2).contiguous().transpose(1, 2)
        ctx.save_for_backward(q, k, v, attended, q.new_empty(q.shape[:-1]))
        return attended


class _Kept:
    """The bytes of different storages that autograd keeps within, without the module's own weights."""

    def __init__(self, module: nn.Module) -> None:
        self._own = {weight.untyped_storage()._cdata for weight in module.parameters()}
        self._found: dict[int, Tensor] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def _note(self, tensor: Tensor) -> Tensor:
        # The tensor is held, so that no later storage takes its place in memory, and its number.
        self._found.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    def __enter__(self) -> "_Kept":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        kept = (tensor for place, tensor in self._found.items() if place not in self._own)
        self.bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept)


class _NormCalls:
    """Channels of each call of a BatchNorm within, and numbers of all."""

    def __init__(self, module: nn.Module) -> None:
        self.channels: list[int] = []
        self.numbers = 0
        self._norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
        self._hooks: list[Any] = []

    def __enter__(self) -> "_NormCalls":
        def note(norm: nn.Module, inputs: Any, _: Any) -> None:
            self.channels.append(cast(_BatchNorm, norm).num_features)
            self.numbers += inputs[0].numel()

        self._hooks = [norm.register_forward_hook(note) for norm in self._norms]
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()
