"""The one door to DeepSpeed: its configuration as a function of ours, and an engine that says what it did."""

import logging
import os
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from viewmill.engine.config import RunConfig
from viewmill.engine.fragments import (
    KINDS,
    Fragment,
    PartitionedState,
    ReadPiece,
    ReplicatedState,
)
from viewmill.engine.world import World


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's settings for this run; nothing is left to its defaults that would change a number.

    Precision is not among them: bf16 is torch's autocast around the forward, over float32 weights, so
    that all stages compute the same.
    """
    return {
        "train_batch_size": config.batch_size,
        "train_micro_batch_size_per_gpu": config.batch_size // (config.accumulation * world_size),
        "gradient_accumulation_steps": config.accumulation,
        # Left out, DeepSpeed clips at 1.
        "gradient_clipping": config.optimizer.clip_grad_norm,
        "zero_optimization": {
            "stage": config.zero.stage,
            # False skipped the gradient's all-reduce on the CPU in some releases.
            "contiguous_gradients": True,
            "overlap_comm": False,
            # True replaces torch.nn.functional.linear for the whole process.
            "memory_efficient_linear": False,
        },
        "zero_allow_untested_optimizer": True,  # torch's AdamW: DeepSpeed's own needs a compiler
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 62,
        "wall_clock_breakdown": False,
    }


class ZeroEngine:
    """A module, its optimiser and its gradients, split over the ranks as the stage says.

    Attributes:
        module: the module that was given.
        stage: ZeRO stage.
        kinds: what the optimiser keeps of every element.
    """

    kinds = KINDS

    def __init__(self, engine: Any, config: RunConfig, world: World) -> None:
        self._engine = engine
        self.module: Any = engine.module
        self.stage = config.zero.stage
        self._autocast = torch.autocast(
            world.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"
        )
        named = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        self._named = named
        self._state: ReplicatedState | PartitionedState
        if self.stage == 0:
            self._state = ReplicatedState(engine.optimizer, named, world.rank, world.world_size)
        else:
            self._state = PartitionedState(engine.optimizer, named)

    def forward(self, views: list[Tensor]) -> Tensor:
        """The module's output, computed in the run's precision."""
        with self._autocast:
            output: Tensor = self._engine(views)
        return output

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss that is equal on all ranks, averaged over them."""
        self._engine.backward(loss)

    def step(self) -> bool:
        """One optimiser step; False where a gradient was not finite and every rank skipped it."""
        skipped = self._engine.skipped_steps
        self._engine.step()
        return bool(self._engine.skipped_steps == skipped)

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next steps, of every group."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    def grad_norm(self) -> float:
        """L2 norm of the last step's global gradient before clipping; inf where the step was skipped."""
        if isinstance(self._engine.optimizer, GuardedAdamW):
            return float(self._engine.optimizer.grad_norm)
        return float(self._engine.get_global_grad_norm())

    def names(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the trained parameters."""
        return {name: tuple(parameter.shape) for name, parameter in self._named.items()}

    def fragments(self) -> list[Fragment]:
        """This rank's pieces; over all ranks they cover every (parameter, kind) exactly once."""
        return list(self._state.fragments())

    def optimizer_steps(self) -> dict[str, int]:
        """How often each parameter has been stepped; equal on all ranks."""
        return self._state.steps()

    def load_pieces(self, read: ReadPiece, steps: dict[str, int]) -> None:
        """Takes weights and optimiser state from a checkpoint of any stage and world size."""
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(read(name, "weight", 0, parameter.numel()).view(parameter.shape))
            self._state.load(read, steps)

    def close(self) -> None:
        """Frees DeepSpeed's hooks and buffers."""
        self._engine.destroy()


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that skips a step whose gradient is not finite: stages 1 and 2 do, stage 0 does not look.

    The gradients are those of the global batch by now, so all ranks decide alike.
    """

    overflow = False  # what DeepSpeed reads to count a skipped step
    grad_norm = 0.0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        self.overflow = self.grad_norm - self.grad_norm != 0  # inf or NaN
        if self.overflow:
            self.grad_norm = float("inf")
        else:
            super().step(closure)


def initialize(module: nn.Module, config: RunConfig, world: World) -> ZeroEngine:
    """Hands a module to DeepSpeed: rank 0's weights and buffers everywhere, AdamW, the stage of the run.

    torch.distributed must be initialised (start_world does it).
    """
    os.environ.setdefault("DS_ACCELERATOR", world.device.type)
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if world.device.type == "cpu":
        # init_distributed would compile it for 40 s, and training does not use it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if world.world_size > 1:
        for buffer in module.buffers():  # DeepSpeed broadcasts parameters only
            dist.broadcast(buffer, src=0)
    optimizer_class = GuardedAdamW if config.zero.stage == 0 else torch.optim.AdamW
    settings = config.optimizer
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer_class(
            parameter_groups(module, settings.weight_decay),
            lr=settings.lr,
            betas=settings.betas,
            eps=settings.eps,
        ),
        config=deepspeed_config(config, world.world_size),
        dist_init_required=False,
    )
    return ZeroEngine(engine, config, world)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases, norms and other vectors do not."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
