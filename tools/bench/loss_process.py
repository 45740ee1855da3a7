"""Time and memory of a loss and its gradient, in a process of its own: only there a peak means anything."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from viewmill.tools.bench.memory import MIB, PAGE, peak_bytes

# Torch's counter of operations knows addmm, but not the one that adds in place.
IN_PLACE = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What function(*arguments) returns in a fresh process; both go there by pickling."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(step: Callable[..., Tensor], inputs: list[Tensor], calls: int = 2) -> dict[str, float]:
    """Seconds, CPU seconds and extra MiB of step(*inputs).backward() on the CPU.

    Extra memory is the peak beyond what stood before the first call, less the gradients; times are the least
    of all calls, so that no first call counts.
    """
    before, seconds, cpu_seconds = peak_bytes(), [], []
    for _ in range(calls):
        began, cpu_began = time.perf_counter(), time.process_time()
        _forward_and_backward(step, inputs)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    extra = peak_bytes() - before - _bytes(inputs)
    return {"seconds": min(seconds), "cpu_seconds": min(cpu_seconds), "extra_mib": max(extra, PAGE) / MIB}


def measure_on_gpu(
    step: Callable[..., Tensor], inputs: list[Tensor], calls: int = 5
) -> dict[str, float] | None:
    """As `measure`, by the events and the allocator of the inputs' GPU; None where its memory is too small.

    One call goes before those that count.
    """
    device = inputs[0].device
    before, seconds = torch.cuda.memory_allocated(device), []
    try:
        for _ in range(calls + 1):
            torch.cuda.reset_peak_memory_stats(device)
            began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            began.record()
            _forward_and_backward(step, inputs)
            ended.record()
            torch.cuda.synchronize(device)
            seconds.append(began.elapsed_time(ended) / 1000)
    except torch.cuda.OutOfMemoryError:
        return None
    extra = torch.cuda.max_memory_allocated(device) - before - _bytes(inputs)
    return {"seconds": min(seconds[1:]), "extra_mib": max(extra, PAGE) / MIB}


def _forward_and_backward(step: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    for x in inputs:
        x.grad = None
    step(*inputs).backward()


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def device_of(name: str) -> torch.device:
    """
    Raises:
        ValueError: it is a GPU, and there is none that torch can use.
    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: this machine has no GPU that torch can use; give --device cpu")
    return device
