"""One optimiser step on every rank, with DeepSpeed's ZeRO: the only file that imports DeepSpeed.

The optimisers are torch's. DeepSpeed's own Adam is compiled when it is first used, which takes a compiler
that a laptop or a cluster node need not have, and then does the same arithmetic.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from viewmill.engine.config import ConfigError, RunConfig
from viewmill.engine.deepspeed_settings import deepspeed_config
from viewmill.engine.lars import LARS, Share, Stretch
from viewmill.engine.loss_scale import LossScale
from viewmill.engine.optimizers import (
    Optimizer,
    Rates,
    build_optimizer,
    first_rates,
    reset_state,
    set_rates,
    state_kinds,
)
from viewmill.engine.partition import flat_groups, held_in
from viewmill.engine.world import World


class ZeroEngine:
    """A module under training on this rank: forward, backward, step.

    At fp16 each backward is of the loss times a scale, and each step divides by it; no caller sees it.

    Attributes:
        module: the module itself, under its own names; at bf16 and fp16 its weights are rounded copies. At
            stage 3 they are empty shells between two forwards: see `partition`.
        optimizer: torch's optimiser, over this rank's share of the float32 weights.
        wrapper: what DeepSpeed put around it, with the maps between shares and parameters; at stage 0 in
            float32 there is none and it is the optimiser itself.
    """

    def __init__(self, deepspeed_engine: Any, optimizer: Optimizer, config: RunConfig, world: World) -> None:
        self._deepspeed = deepspeed_engine
        self._norm: Tensor | float | None = None
        self._carried: list[Tensor | None] | None = None  # gradients that the next backward takes along
        self.module: Any = deepspeed_engine.module  # an nn.Module, with methods of its own
        self.wrapper: Any = deepspeed_engine.optimizer
        self.optimizer = optimizer
        self.world = world
        self.stage = config.zero.stage
        self.state_kinds = state_kinds(config.optimizer)
        self.recomputes = config.model.checkpoint_activations  # its backwards run parts of the forward again
        self.loss_scale = LossScale(config.loss_scale) if config.precision == "fp16" else None
        # DeepSpeed would copy all gradients into one tensor and back, to average them over one rank. In
        # float32 alone: otherwise its wrapper takes them over there.
        self._is_alone = world.world_size == 1 and self.wrapper is self.optimizer
        if self._is_alone:
            deepspeed_engine.enable_backward_allreduce = False

    def __call__(self, *inputs: Any) -> Any:
        """The module's forward. Not `module(...)` where backward follows: DeepSpeed prepares for it here."""
        return self._deepspeed(*inputs)

    def forward_aside(self, *inputs: Any) -> Any:
        """The module's forward where `backward` does not follow: `accumulate` does, or nothing."""
        # At stage 3 each backward is DeepSpeed's, which prepares for it in each forward.
        return self._deepspeed(*inputs) if self.stage == 3 else self.module(*inputs)

    def accumulate(self, outputs: Tensor, gradient: Tensor) -> None:
        """Keeps a micro-batch's gradients of the weights for the next `backward`.

        Sums are in float32 at least. Up to stage 2 they are of every weight on every rank, and nothing is
        sent. At stage 3, where no rank has the whole weights, they are averaged over the ranks at once, and a
        rank keeps its share.

        Args:
            outputs: of `forward_aside`, with their graph, which this uses up.
            gradient: of the loss with respect to them.
        """
        if self.stage == 3:
            # Its gradient with respect to the outputs is `gradient`, to the bit, whatever the sum is.
            self._deepspeed.backward(self._scaled((outputs * gradient).sum()))
            return
        scale = 1.0 if self.loss_scale is None else self.loss_scale.value
        pull = (gradient * scale).to(outputs.dtype)  # scaled before it is rounded
        found = torch.autograd.grad(outputs, self._trained(), pull, allow_unused=True)
        before = self._carried or [None] * len(found)
        # Not in place: two weights may be given one and the same tensor.
        self._carried = [_sum(*pair, scale) for pair in zip(before, found, strict=True)]

    def backward(self, loss: Tensor) -> None:
        """Gradients of the loss, and those kept by `accumulate`, averaged over the ranks; once a step."""
        if self._carried is not None:
            loss = _WithCarried.apply(loss, self._carried, *self._trained())
            self._carried = None
        self._deepspeed.backward(self._scaled(loss))

    def _scaled(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale is None else loss * self.loss_scale.value

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self.module.parameters() if weight.requires_grad]

    def step(self) -> bool:
        """Updates the weights; False where it was skipped, on all ranks alike, for a non-finite gradient.

        At fp16 `lower_loss_scale` is then the caller's to ask for: this is not told what the loss was.
        """
        checks_itself = self.wrapper is not self.optimizer
        if self._is_alone:
            for weight in self._trained():
                if weight.grad is None:  # as on several ranks: what a step does not use has a gradient, 0
                    weight.grad = torch.zeros_like(weight)
        if not checks_itself:
            # The reduced gradient has the same bits on every rank, and so does the decision.
            self._norm = gradient_norm(self.module)
            self.optimizer.overflow = not bool(self._norm.isfinite())
        if self.loss_scale is not None:
            # DeepSpeed divides by its scale in a step at every stage, and multiplies by it in a backward at
            # stages 1 to 3 alone. So it has one in the step only, and `backward` multiplies.
            self.wrapper.loss_scale = self.loss_scale.value
        self._deepspeed.step()
        if self.stage == 3:
            # DeepSpeed writes over a share when its weight is used again; else the old one would count twice.
            self.wrapper.grad_partitions_flat_buffer.zero_()
        if checks_itself:
            self._norm = self._deepspeed.get_global_grad_norm()
        applied = bool(self._deepspeed.was_step_applied())
        if self.loss_scale is not None:
            if self.stage == 0:  # alone, it gives that of the scaled loss
                self._norm = self._norm and self._norm / self.loss_scale.value
            if applied:
                self.loss_scale.applied()
            self.wrapper.loss_scale = 1.0
        return applied

    def lower_loss_scale(self) -> bool:
        """After a skipped step whose loss was finite: halves the loss scale; all ranks call it.

        False: there is none, or it is at its floor, so that float16's range is not what made the gradient
        infinite.
        """
        return self.loss_scale is not None and self.loss_scale.lower()

    def grad_norm(self) -> float | None:
        """L2 norm of the last step's gradient before clipping; None before the first, inf where skipped."""
        if self._norm is None:
            return None
        norm = float(self._norm)
        return norm if norm < float("inf") else float("inf")

    def set_rates(self, rates: Rates) -> None:
        """Learning rate, weight decay and momentum of the steps to come."""
        set_rates(self.optimizer, rates)

    @torch.no_grad()
    def publish_weights(self) -> None:
        """After the float32 shares were written: brings the module's weights in line. All ranks call it."""
        if self.stage == 3:
            pairs = self.wrapper.fp16_partitioned_groups_flat, self.wrapper.fp32_partitioned_groups_flat
            for shares, masters in zip(*pairs, strict=True):
                shares.copy_(masters)
        elif self.stage > 0:
            self.wrapper.update_lp_params()
        elif self.wrapper is not self.optimizer:
            for weights, masters in zip(self.wrapper.fp16_groups, self.wrapper.fp32_groups, strict=True):
                torch._foreach_copy_(weights, masters)


class _WithCarried(torch.autograd.Function):
    """The loss, unchanged; its backward adds gradients from elsewhere to those of the weights."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, carried: list[Tensor | None], *weights: Tensor) -> Tensor:
        ctx.carried, ctx.dtypes = carried, [weight.dtype for weight in weights]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        parts = [
            None if part is None else (part * scale).to(dtype)
            for part, dtype in zip(ctx.carried, ctx.dtypes, strict=True)
        ]
        ctx.carried = None
        return scale, None, *parts


def _sum(before: Tensor | None, part: Tensor | None, scale: float) -> Tensor | None:
    """In float32 at least, the part divided by its scale; None: a weight that no micro-batch has used."""
    if part is None:
        return before
    part = part.to(torch.promote_types(part.dtype, torch.float32))
    part = part if scale == 1.0 else part / scale
    return part if before is None else before + part


def initialize(module: nn.Module, config: RunConfig, world: World) -> ZeroEngine:
    """Hands the module to DeepSpeed; weights and buffers become rank 0's on every rank.

    torch.distributed must be up: DeepSpeed then asks neither for an address nor for MPI.

    Raises:
        ValueError: accumulation times world size does not divide the batch.
        ConfigError: fp16 on a device without it.
        RuntimeError: torch.distributed is not initialised.
    """
    told = deepspeed_config(config, world.world_size)
    if not dist.is_initialized():
        raise RuntimeError("torch.distributed is not initialised; call start_world before initialize")
    deepspeed = import_deepspeed(world)
    if config.precision == "fp16" and not deepspeed.get_accelerator().is_fp16_supported():
        raise ConfigError(
            f"precision=fp16: this {world.device.type} has no float16 arithmetic of its own, and DeepSpeed "
            "takes none without; set precision=fp32 or bf16, or run on a GPU"
        )
    for parameter in module.parameters():
        # DeepSpeed refuses weights in channels_last and, above stage 0, flattens them. Convolutions run in
        # that layout all the same when their input has it. (contiguous() keeps the strides of 1 x 1 kernels.)
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    optimizer = build_optimizer(module, config.optimizer)
    engine, _, _, _ = deepspeed.initialize(
        model=module, optimizer=optimizer, config=told, dist_init_required=False
    )
    # DeepSpeed broadcasts the parameters alone.
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
    reset_state(optimizer, config.optimizer, moved_by(optimizer, engine.optimizer, config.zero.stage))
    if isinstance(optimizer, LARS) and config.zero.stage:
        optimizer.divide(
            shares_of(engine.optimizer, config.zero.stage), partial(sum_over_ranks, world.device)
        )
    set_rates(optimizer, first_rates(config.optimizer))
    return ZeroEngine(engine, optimizer, config, world)


def sum_over_ranks(device: torch.device, numbers: Tensor) -> None:
    """In place. By way of the device, where the ranks meet, also of what was offloaded to the host."""
    there = numbers.to(device)
    dist.all_reduce(there)
    numbers.copy_(there)


def moved_by(optimizer: Optimizer, wrapper: Any, stage: int) -> list[Tensor]:
    """The tensors of this rank that the optimiser moves; at stage 3 its groups have them in a step alone."""
    if stage == 3:
        return [flat for _, flat in flat_groups(wrapper, stage)]
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def shares_of(wrapper: Any, stage: int) -> dict[Tensor, Share]:
    """Above stage 0: what this rank's flat tensor of each group holds."""
    return {
        flat: Share(
            len(weights), tuple(Stretch(one.number, one.start, one.numel) for one in held_in(weights, stage))
        )
        for weights, flat in flat_groups(wrapper, stage)
    }


def import_deepspeed(world: World) -> Any:
    """The library, made quiet and kept from compiling. Imported late: it takes seconds."""
    # Else a run on the CPU of a machine with a GPU would be moved to the GPU.
    os.environ["DS_ACCELERATOR"] = world.device.type
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    import deepspeed
    import deepspeed.ops

    # Not probed and not built: a shared-memory collective that training does not use (40 s, and a machine
    # without a compiler fails). It is the only reader of this table.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    deepspeed.utils.logger.setLevel("ERROR")
    _forget_ended_groups()
    return deepspeed


def _forget_ended_groups() -> None:
    """A process that trains twice has two process groups; DeepSpeed would go on with the first, now ended."""
    from deepspeed.utils import groups

    if groups._WORLD_GROUP is None:
        return
    try:
        dist.get_global_rank(groups._WORLD_GROUP, 0)
    except ValueError:  # torch no longer knows it
        groups._release_process_group_references()


def read_zero_checkpoint(checkpoint: Path, world: World) -> dict[str, Tensor]:
    """float32 weights, and buffers, of a checkpoint that DeepSpeed wrote at ZeRO 1 to 3. Loads pickles.

    Raises:
        ValueError, FileNotFoundError: as DeepSpeed does, where files are missing or of another kind.
    """
    import_deepspeed(world)
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    state: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(checkpoint.parent), checkpoint.name
    )
    return state


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm of all gradients together, 0-dim."""
    gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
