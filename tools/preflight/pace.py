"""How many bytes to send, so that a fast link is measured well and a slow one in bounded time."""

from collections.abc import Callable

import torch

PROBE_BYTES = 256 << 10


def sized(seconds: Callable[[int], float], wanted_s: float, most: int) -> int:
    """Bytes that take about `wanted_s`: twice asked with growing sizes, as the first tells of latency alone.

    Args:
        seconds: sends as many bytes and says how long that took.
        most: the most bytes.
    """
    count = PROBE_BYTES
    for _ in range(2):
        took = max(seconds(count), 1e-6)
        count = max(PROBE_BYTES, min(most, int(count * wanted_s / took)))
        if took >= wanted_s / 2:
            break
    return count


def settle(device: torch.device) -> None:
    """Waits for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
