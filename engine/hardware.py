"""What a GPU cannot do, told once when a run starts; what a rank has held of its memory."""

import re
from pathlib import Path

import torch
from viewmill.methods.kernel_sums import LEAST_CAPABILITY


def old_gpu_notice(capability: tuple[int, int] | None, precision: str) -> str | None:
    """A line about a GPU of this compute capability; None: nothing is amiss, or there is no GPU.

    Args:
        precision: the run's.
    """
    if capability is None or capability >= LEAST_CAPABILITY:
        return None
    found, least = (".".join(map(str, version)) for version in (capability, LEAST_CAPABILITY))
    bf16 = "precision=bf16 is" if precision == "bf16" else "bf16 would be"
    # Tensor cores, which multiply float16 alone, came with 7.0.
    best = "precision=fp16 is the fast one" if capability >= (7, 0) else "precision=fp32 is the one to take"
    return (
        f"the GPU has compute capability {found}, below {least}: HyDeS runs on blockwise torch instead of "
        f"the Triton kernels, and {bf16} without hardware of its own; {best}"
    )


def capability_of(device: torch.device) -> tuple[int, int] | None:
    """Of a GPU by NVIDIA; None for all else."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    return torch.cuda.get_device_capability(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of a GPU's memory by torch's tensors, else of the host's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Not getrusage, which counts what a parent held before it became this process.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.M)
    return int(found[1]) * 1024 if found else 0
