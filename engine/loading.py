"""What a run's settings mean for its Loader: said once, for training and for replay."""

from typing import Any

from viewmill.engine.config import RunConfig
from viewmill.engine.world import World


def loader_options(config: RunConfig, world: World) -> dict[str, Any]:
    """The Loader's keyword arguments that give this rank its share of every global batch."""
    return {
        "executor": config.views.executor,
        "device": str(world.device),
        "seed": config.seed,
        "rank": world.rank,
        "world_size": world.world_size,
        "accumulation": config.accumulation,
        "num_threads": config.views.num_threads,
        "prefetch": config.views.prefetch,
        "max_ahead_bytes": config.views.max_ahead_bytes,
        "max_substitutes": config.views.max_substitutes,
        "block": config.views.block,
        "window": config.views.window,
    }
