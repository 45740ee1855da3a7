"""What DeepSpeed is told of a run."""

from typing import Any

from viewmill.engine.config import RunConfig

# Elements reduced at once above stage 0. DeepSpeed's own 5e8 holds 2 GB for a model of any size.
REDUCE_BUCKET = 50_000_000
# Stage 3. Elements gathered ahead of the layer that computes, and how many may be there when more are: a
# large model must never be there whole, and DeepSpeed's own 1e9 would keep one of 4 GB.
PREFETCH = 10_000_000
MAX_LIVE = 50_000_000
STAGE_3 = {
    "stage3_prefetch_bucket_size": PREFETCH,
    "stage3_max_live_parameters": MAX_LIVE,
    # A weight is let go after its layer, also where a view of another size needs it again, unless gathering
    # ahead has reached that use: what is there is bounded by the two numbers above.
    "stage3_max_reuse_distance": 0,
    # No weight stays whole. Small ones, kept, would save few messages, for they are gathered ahead together.
    "stage3_param_persistence_threshold": 0,
    # No group of weights is cut further: the optimiser's step goes over each group at once.
    "sub_group_size": 1_000_000_000_000,
}


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """What DeepSpeed is told; derived from the run's settings and stored nowhere.

    Raises:
        ValueError: accumulation times world size does not divide the batch.
    """
    if config.batch_size % (config.accumulation * world_size):
        raise ValueError(
            f"batch_size {config.batch_size} is not a multiple of {config.accumulation} micro-batches x "
            f"{world_size} ranks; change batch_size, accumulation or the number of ranks"
        )
    told: dict[str, Any] = {
        "train_batch_size": config.batch_size,
        # Micro-batches are not its business: it sees one backward a step, divides by nothing but the ranks,
        # and reduces once. Left to it, gradients of bf16 would be summed in bfloat16 at stages 0 and 1.
        "train_micro_batch_size_per_gpu": config.batch_size // world_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.clip_grad_norm,  # left out, it means 1.0
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.zero.stage,
            "contiguous_gradients": True,
            "memory_efficient_linear": False,  # it would replace torch's linear for the whole process
            "reduce_bucket_size": REDUCE_BUCKET,
        },
        "wall_clock_breakdown": False,
    }
    if config.zero.offload_optimizer:
        told["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        # Torch's optimisers move what lies in the host's memory too, and nothing need be compiled.
        told["zero_force_ds_cpu_optimizer"] = False
    if config.zero.stage == 3:
        told["zero_optimization"] |= STAGE_3
        # Gradients of micro-batches are added up in this type.
        told["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.precision == "bf16":
        told["bf16"] = {"enabled": True, "check_grad_overflow": True}
    if config.precision == "fp16":
        # None at all, and a constant one: the scale is ours, see `ZeroEngine.step`.
        told["fp16"] = {"enabled": True, "loss_scale": 1.0}
    if config.precision != "fp32":
        # Sums over ranks keep float32: with the few bits of a half type a mean over many ranks would lose
        # small parts.
        told["communication_data_type"] = "fp32"
    return told
