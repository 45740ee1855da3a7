"""How much of what a device can compute a step uses: its operations, and the peak to hold them against."""

import re
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from viewmill.engine.config import RunConfig
from viewmill.tools.planning.loss_flops import loss_flops
from viewmill.tools.planning.workload import count_workload

# Dense tera-operations a second by precision, from the makers' datasheets, sparsity and TF32 left aside; the
# first name that stands as a word in the device's own one is it.
DATASHEETS: dict[str, dict[str, float]] = {
    # NVIDIA H200 Tensor Core GPU datasheet (SXM)
    "H200": {"fp32": 67.0, "bf16": 989.0, "fp16": 989.0},
    # NVIDIA H100 Tensor Core GPU datasheet (PCIe; SXM)
    "H100 PCIe": {"fp32": 51.0, "bf16": 756.0, "fp16": 756.0},
    "H100": {"fp32": 67.0, "bf16": 989.0, "fp16": 989.0},
    # NVIDIA A100 Tensor Core GPU datasheet
    "A100": {"fp32": 19.5, "bf16": 312.0, "fp16": 312.0},
    # NVIDIA L40S, L4, A10 and T4 datasheets
    "L40S": {"fp32": 91.6, "bf16": 362.0, "fp16": 362.0},
    "L4": {"fp32": 30.3, "bf16": 121.0, "fp16": 121.0},
    "A10": {"fp32": 31.2, "bf16": 125.0, "fp16": 125.0},
    "T4": {"fp32": 8.1, "fp16": 65.0},
    # NVIDIA V100 datasheet (PCIe; SXM2)
    "V100-PCIE": {"fp32": 14.0, "fp16": 112.0},
    "V100": {"fp32": 15.7, "fp16": 125.0},
}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Peak(NamedTuple):
    """What a rank's device can do at best."""

    flops_per_s: float
    source: str


def peak_of(device: torch.device, precision: str) -> Peak:
    """A datasheet's number for a GPU that is known, else what a large matrix product reaches here."""
    known = known_gpu(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known is not None and precision in DATASHEETS[known]:
        return Peak(1e12 * DATASHEETS[known][precision], f"datasheet of {known}, {precision}, dense")
    side = 8192 if device.type == "cuda" else 1024
    count = torch.get_num_threads()
    threads = "" if device.type == "cuda" else f" on {count} thread{'s' if count > 1 else ''}"
    return Peak(
        _matmul_flops_per_s(device, _DTYPES[precision], side),
        f"measured: {side} x {side} {precision}{threads}",
    )


def known_gpu(name: str) -> str | None:
    """Which of DATASHEETS a GPU of this name is; None: none of them."""
    return next((known for known in DATASHEETS if re.search(rf"\b{known}\b", name)), None)


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype, side: int, repeats: int = 5) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(repeats):
        began_s = perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, perf_counter() - began_s)
        del product
    return 2 * side**3 / best_s


def model_flops(config: RunConfig, world_size: int) -> float:
    """Operations that a step of a rank needs: what a model FLOPs utilisation counts (Chowdhery et al. 2022,
    arXiv 2204.02311, appendix B).

    Forward and twice as many backward, and the teacher's forward, however often they are computed again; the
    products of the loss as `loss_flops` has them.
    """
    work = count_workload(config)
    images = config.batch_size // world_size
    return images * work.step_flops + loss_flops(config, work, world_size)


def count_flops(work: Callable[[], Any]) -> int:
    """Operations of convolutions and matrix products, a multiplication and an addition being two.

    By torch's counter: element-wise work is left out, and so are Triton's kernels. What is computed again, by
    checkpointed activations or in the second forward of micro-batches, is counted again.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        work()
    return counter.get_total_flops()
