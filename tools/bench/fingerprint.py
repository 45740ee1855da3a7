"""What a benchmark ran on, without names of machines or folders."""

from importlib import metadata
from typing import Any

import torch
from viewmill.engine.environment import environment
from viewmill.engine.world import World
from viewmill.tools.preflight.processors import own_quota


def fingerprint(*packages: str) -> dict[str, Any]:
    """Processors, those that this process may use, memory and versions, those of `packages` too."""
    alone = World(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
    found = environment(alone)
    for name in ("world_size", "device"):
        del found[name]
    found["cpu_quota"] = own_quota()
    found["packages"] |= {name: metadata.version(name) for name in packages}
    return found
