"""What a run's settings mean for its Loader: said once, for training and for replay."""

from typing import Any

from viewmill.engine.config import RunConfig
from viewmill.engine.world import World
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.orders.interface import Order

# What the first layer reads: nothing is cast or laid out anew on its way there.
VIEW_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def loader_options(config: RunConfig, world: World, order: Order) -> dict[str, Any]:
    """The Loader's keyword arguments that give this rank its share of every global batch."""
    return {
        "executor": config.views.executor,
        "device": str(world.device),
        "view_format": ViewFormat(VIEW_DTYPES[config.precision], config.model.channels_last),
        "seed": config.seed,
        "rank": world.rank,
        "world_size": world.world_size,
        "accumulation": config.accumulation,
        "num_threads": config.views.num_threads,
        # A step takes its micro-batches at once: with fewer ahead it would wait while nothing is computed.
        "prefetch": max(config.views.prefetch, config.accumulation),
        "max_ahead_bytes": config.views.max_ahead_bytes,
        "max_substitutes": config.views.max_substitutes,
        "order": order,
    }
