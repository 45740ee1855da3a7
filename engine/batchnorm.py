"""BatchNorm with the statistics of the global batch: on CUDA torch's own, on the CPU an equal of it."""

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed import ProcessGroup
from torch.nn.modules.batchnorm import _BatchNorm


class GlobalBatchNorm(_BatchNorm):
    """BatchNorm of any number of dimensions over the values of every rank.

    Equal to torch's on the concatenated batch: outputs, running statistics (the variance unbiased), and
    gradients in the convention of `methods.collectives`: a rank's gradient is world-size times its part of
    the global one. Ranks may hold different numbers of images. One process, and evaluation, are torch's own
    code.
    """

    group: ProcessGroup | None = None

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected (n, C) or (n, C, ...), got {x.ndim} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """(n, C) or (n, C, ...) -> the same shape and type. All ranks call it while training."""
        uses_batch = self.training or self.running_mean is None
        if not uses_batch or not dist.is_initialized() or dist.get_world_size(self.group) == 1:
            return self._alone(x, uses_batch)
        self._check_input_dim(x)
        y, mean, variance, count = _Normalize.apply(x, self.weight, self.bias, self.eps, self.group)
        if self.training and self.running_mean is not None:
            self._follow(mean, variance, count)
        return cast(Tensor, y)

    def _alone(self, x: Tensor, uses_batch: bool) -> Tensor:
        """torch's own, also where DeepSpeed has cast the weights to bfloat16 and left the buffers."""
        if self.running_mean is None or self.weight is None or self.weight.dtype == self.running_mean.dtype:
            return super().forward(x)
        dtype = self.running_mean.dtype
        weight, bias = self.weight.to(dtype), _to(self.bias, dtype)
        share = self._next_share() if self.training else 0.0
        y = F.batch_norm(
            x.to(dtype), self.running_mean, self.running_var, weight, bias, uses_batch, share, self.eps
        )
        return y.to(x.dtype)

    def _next_share(self) -> float:
        """What the batch at hand weighs in the running statistics; momentum None averages all alike."""
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        share = self._next_share()
        unbiased = variance * (count / (count - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)


class _Normalize(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with two collectives forward and one backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: ProcessGroup | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.promote_types(x.dtype, torch.float32)
        values = x.to(dtype)
        per_channel = [dim for dim in range(x.ndim) if dim != 1]
        count = values.new_tensor([x.numel() // x.shape[1]])
        sums = torch.cat([values.sum(per_channel), count])
        dist.all_reduce(sums, group=group)
        mean, count = sums[:-1] / sums[-1], sums[-1]
        if count <= 1:
            raise ValueError(
                f"batch norm needs more than 1 value per channel in training, got {tuple(x.shape)}"
            )
        # A second pass: the mean of squares minus the square of the mean loses all digits of a small
        # variance.
        variance = (values - _as_channels(mean, x)).square_().sum(per_channel)
        dist.all_reduce(variance, group=group)
        variance /= count
        y = F.batch_norm(
            values, mean, variance, _to(weight, dtype), _to(bias, dtype), training=False, eps=eps
        )
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(variance + eps), count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        x, weight, mean, inverse_std, count = ctx.saved_tensors
        dtype, channels = mean.dtype, x.shape[1]
        per_channel = [dim for dim in range(x.ndim) if dim != 1]
        unit = (x.to(dtype) - _as_channels(mean, x)).mul_(_as_channels(inverse_std, x))
        pull = grad.to(dtype)
        grad_bias, grad_weight = pull.sum(per_channel), (pull * unit).sum(per_channel)
        # What the statistics pass on: every rank's gradient flows through the mean and the variance that it
        # shares.
        shared = torch.cat([grad_bias, grad_weight])
        dist.all_reduce(shared, group=ctx.group)
        shared /= count
        pull = pull - _as_channels(shared[:channels], x)
        pull.sub_(unit.mul_(_as_channels(shared[channels:], x)))
        scale = inverse_std if weight is None else inverse_std * weight
        grad_x = pull.mul_(_as_channels(scale, x)).to(x.dtype)
        if weight is None:
            return grad_x, None, None, None, None
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None


class _GlobalBatchNormAct(GlobalBatchNorm):
    """With the dropout and activation that a fused layer, as timm has them, applies behind the norm."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.drop(super().forward(x))))


class _SyncBatchNormAct(nn.SyncBatchNorm):
    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.act(self.drop(super().forward(x))))


def convert_batchnorm(
    module: nn.Module, device: torch.device, group: ProcessGroup | None = None
) -> nn.Module:
    """Replaces every BatchNorm in a module by a global one; parameters, buffers and their names stay.

    Args:
        module: changed in place; if it is a BatchNorm itself, its replacement is returned.
        device: on cuda the replacement is torch's SyncBatchNorm, elsewhere GlobalBatchNorm.
        group: ranks whose batches are pooled; None is every rank.

    Raises:
        ValueError: a subclass of BatchNorm that this does not know.
    """
    if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm | nn.SyncBatchNorm):
        return _converted(module, device, group)
    for name, child in module.named_children():
        setattr(module, name, convert_batchnorm(child, device, group))
    return module


def _converted(norm: _BatchNorm, device: torch.device, group: ProcessGroup | None) -> nn.Module:
    plain = type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    fused = {"drop", "act"} <= dict(norm.named_children()).keys()
    if not plain and not fused:
        raise ValueError(
            f"{type(norm).__name__} is a BatchNorm of an unknown kind; statistics would stay local"
        )
    on_cuda = device.type == "cuda"
    kinds = (nn.SyncBatchNorm, _SyncBatchNormAct) if on_cuda else (GlobalBatchNorm, _GlobalBatchNormAct)
    made: Any = kinds[fused](
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    if fused:
        made.drop, made.act = norm.drop, norm.act
    setattr(made, "process_group" if on_cuda else "group", group)
    return cast(nn.Module, made.train(norm.training))


def _as_channels(per_channel: Tensor, x: Tensor) -> Tensor:
    """(C,) shaped to meet (n, C, ...)."""
    return per_channel.view(1, -1, *[1] * (x.ndim - 2))


def _to(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.to(dtype)
