"""The products of each loss, as a rank of several computes them, forward and backward."""

# m own rows of N, D width, T rows of a tile, C = D / W columns

from viewmill.engine.config import RunConfig
from viewmill.engine.method_config import HydesConfig, ImsvdConfig
from viewmill.methods.kernel_sums import TILE, TILE_ON_GPU
from viewmill.tools.planning.workload import Workload


def loss_flops(config: RunConfig, work: Workload, world_size: int, *, triton: bool = False) -> float:
    """Multiplications and additions of a rank's loss in a step; what has no products counts as nothing."""
    method, images = config.method, config.batch_size // world_size
    if isinstance(method, HydesConfig):
        tile = TILE if config.device == "cpu" else TILE_ON_GPU
        own = images * work.num_views
        return hydes_flops(own, own * world_size, work.embedding_dim, tile, triton=triton)
    if isinstance(method, ImsvdConfig):
        pairs = work.num_views * (work.num_views - 1) // 2
        products = 3 if method.joint == "cross" else 4
        return pairs * products * 2.0 * config.batch_size * work.embedding_dim**2 / world_size
    return 0.0


def hydes_flops(own: int, total: int, dim: int, tile: int, *, triton: bool) -> float:
    """Logits forward (2 D a pair), logits again and the pull backward (4 D).

    Among its own rows a rank computes each pair of tiles once (`kernel_tiles.tiles`), and only the pull of
    both sides: (own^2 + own T) / 2 pairs where T divides own or own has one tile. Triton computes all.
    """
    if triton:
        return 6.0 * dim * own * total
    once = (own**2 + own * min(tile, own)) / 2
    others = own * (total - own)
    return 2.0 * dim * (2 * (once + others) + own**2 + others)
