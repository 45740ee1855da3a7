"""The memory of a rank at each ZeRO stage: engine/README.md's formula, with half types and a teacher."""

from typing import NamedTuple

from viewmill.engine.config import RunConfig
from viewmill.engine.deepspeed_settings import MAX_LIVE, REDUCE_BUCKET
from viewmill.engine.method_config import DistillConfig, HydesConfig, ImsvdConfig
from viewmill.methods.kernel_sums import TILE, TILE_ON_GPU
from viewmill.tools.planning.formulas import Book
from viewmill.tools.planning.traffic import HALF
from viewmill.tools.planning.workload import FLOAT32, Workload

# Averages that an optimiser keeps of each weight.
AVERAGES = {"adamw": 2, "sgd": 1, "lars": 1}
# Of the bytes that autograd keeps, with `model.checkpoint_activations`: counted for `test_resnet`.
RECOMPUTED_FRACTION = 0.4


class RankMemory(NamedTuple):
    """Bytes on the device, and, with `zero.offload_optimizer`, in the host's pinned memory."""

    held: float  # between two steps
    peak: float  # within one
    host: float


def rank_memory(config: RunConfig, work: Workload, world_size: int, book: Book | None = None) -> RankMemory:
    """What a rank holds. float32 without offloading is the measured formula of `viewmill bench memory`.

    Half types: weights and gradients have 2 bytes, and a float32 copy of the weights is held, also at stage
    0, where float32 needs none. The loss's own memory stands beside the activations, which are kept then.
    The CUDA context (some 0.5 GB) and what the allocator cannot fill are not in it.
    """
    book = book or Book()
    own = FLOAT32 if config.precision == "fp32" else HALF
    images = config.batch_size // (world_size * config.accumulation)
    activations = images * work.activation_bytes * own / FLOAT32
    if config.model.checkpoint_activations:
        activations *= RECOMPUTED_FRACTION
    numbers: dict[str, float] = {
        "P": work.weights,
        "H": work.head_weights,
        "W": world_size,
        "b": own,
        "m": AVERAGES[config.optimizer.name],
        "A": activations,
        "L": loss_bytes(config, work, world_size),
        "X": config.accumulation * images * 3 * work.view_pixels * own,
        "bucket": 4 * REDUCE_BUCKET,
        "live": own * MAX_LIVE,
        "T": teacher_bytes(config, work, world_size),
    }
    stage = config.zero.stage
    copy, host = copy_and_averages(config), 0.0
    held_rule = {
        0: f"b*P + {copy}*P",
        1: f"b*P + {copy}*P/W",
        2: f"b*P + {copy}*P/W",
        3: f"b*P/W + 4*P/W + {copy}*P/W + min(4*P, bucket)",
    }[stage]
    if config.zero.offload_optimizer and config.device != "cpu":
        host = book.put("host_bytes", f"{copy}*P/W", numbers, "B", "pinned: float32 copy and averages")
        held_rule = held_rule.replace(f" + {copy}*P/W", "")
    held = book.put("held_bytes", f"{held_rule} + T + X", numbers, "B", "engine/README.md, Memory of a rank")
    gathered = " + min(b*P, live)" if stage == 3 else ""
    backward = book.put("backward_bytes", f"A + L + 4*H{gathered}", numbers, "B")
    update_rule = {
        0: "b*P" if own == FLOAT32 else "b*P + 4*P",
        1: "max(min(4*P, bucket) + 4*P/W, 16*P/W)",
        2: "max(min(4*P, bucket) + 4*P/W, 16*P/W)",
        3: "12*P/W",
    }[stage]
    update = book.put("update_bytes", update_rule, numbers, "B")
    carried = FLOAT32 * work.weights if config.accumulation > 1 and stage < 3 else 0.0
    peak = book.put(
        "peak_bytes", "held + carried + max(backward, update)",
        {"held": held, "carried": carried, "backward": backward, "update": update}, "B",
    )  # fmt: skip
    return RankMemory(held, peak, host)


def copy_and_averages(config: RunConfig) -> int:
    """Bytes a weight that the optimiser moves: its averages, and a float32 copy but at stage 0 in float32."""
    averages = FLOAT32 * AVERAGES[config.optimizer.name]
    has_copy = config.zero.stage > 0 or config.precision != "fp32"
    return averages + (FLOAT32 if has_copy else 0)


def teacher_bytes(config: RunConfig, work: Workload, world_size: int) -> float:
    """A float32 copy of the student, cut over the ranks at stage 3."""
    if not isinstance(config.method, DistillConfig):
        return 0.0
    return FLOAT32 * work.weights / (world_size if config.zero.stage == 3 else 1)


def loss_bytes(config: RunConfig, work: Workload, world_size: int) -> float:
    """Beyond the embeddings' gradient: gathered rows, gradients of them, tiles; float32.

    HyDeS: N D gathered, and the gradient and two tiles of the rank's own rows. IMSVD: rows of both views and
    their gradients, 2 N D and 2 N C, and two blocks of P of 32 MiB. A distillation: some copies of n K.
    """
    method, batch, dim = config.method, config.batch_size, work.embedding_dim
    images = batch // world_size
    if isinstance(method, HydesConfig):
        vectors = batch * work.num_views
        tile = min(TILE if config.device == "cpu" else TILE_ON_GPU, vectors // world_size)
        return FLOAT32 * (vectors * dim + 2 * (vectors // world_size) * dim + 2 * tile * min(tile, vectors))
    if isinstance(method, ImsvdConfig):
        return FLOAT32 * (2 * batch * dim + 2 * batch * dim / world_size) + 2 * 32 * 2**20
    return FLOAT32 * 3.0 * images * work.num_views * dim
