"""How ranks come to one mind: no rank fails, stops or chooses alone, which would leave the others waiting."""

import json
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from viewmill.engine.world import World


class RankError(RuntimeError):
    """Another rank failed; the message says which one and with what."""

    def __init__(self, rank: int, failure: str) -> None:
        super().__init__(f"rank {rank}: {failure}")
        self.rank = rank


def gather_json(world: World, value: Any) -> list[Any]:
    """Every rank's JSON-able value in rank order, on every rank. Not pickle: peers send data, not code."""
    if world.world_size == 1:
        return [value]
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world.world_size)]
    dist.all_gather(sizes, torch.tensor([mine.numel()]))
    longest = int(max(size.item() for size in sizes))
    padded = torch.nn.functional.pad(mine, (0, longest - mine.numel()))
    texts = [torch.zeros_like(padded) for _ in range(world.world_size)]
    dist.all_gather(texts, padded)
    pairs = zip(texts, sizes, strict=True)
    return [json.loads(bytes(text[: int(size.item())].tolist())) for text, size in pairs]


def largest(world: World, numbers: list[int]) -> list[int]:
    """The largest of each number over the ranks: one small all-reduce on the host, no device stall."""
    if world.world_size == 1:
        return numbers
    tensor = torch.tensor(numbers)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def from_rank_zero(world: World, work: Callable[[], Any]) -> Any:
    """work() is done on rank 0 alone; its JSON-able result, or its failure, reaches every rank.

    Raises:
        RankError: on the other ranks, where rank 0 failed. Rank 0 raises the error itself.
    """
    result, error = None, None
    if world.rank == 0:
        try:
            result = work()
        except Exception as caught:  # carried to every rank, and raised below
            error = caught
    outcome = gather_json(world, [result, describe(error)])[0]
    if error is not None:
        raise error
    if outcome[1]:
        raise RankError(0, outcome[1])
    return outcome[0]


def raise_everywhere(world: World, error: BaseException | None) -> None:
    """Called by all ranks when at least one has failed: each raises its own error, or names the others'.

    Raises:
        RankError: this rank is well; the message says which rank failed and how.
    """
    failures = gather_json(world, describe(error))
    if error is not None:
        raise error
    first = next(rank for rank, failure in enumerate(failures) if failure)
    raise RankError(first, failures[first])


def describe(error: BaseException | None) -> str | None:
    return None if error is None else f"{type(error).__name__}: {error}"
