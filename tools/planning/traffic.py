"""What crosses the network in a step: collectives with their bytes, and what of them each rank sends."""

# W ranks, n images a rank, V views, N = W n V vectors, D embedding width, K clusters, P weights

import math
from collections.abc import Callable
from typing import NamedTuple

from viewmill.engine.config import RunConfig
from viewmill.engine.deepspeed_settings import MAX_LIVE, PREFETCH, REDUCE_BUCKET
from viewmill.engine.method_config import DistillConfig, HydesConfig, ImsvdConfig
from viewmill.methods.targets import SINKHORN_ITERATIONS
from viewmill.tools.planning.workload import FLOAT32, Workload

HALF = 2  # bytes of bf16 and fp16
DOUBLE = 8
ALL_REDUCED = 500_000_000  # numbers that DeepSpeed sums at once at stage 0
SHAPES = 16 * 8  # what `check_equal_shapes` sends: 16 numbers of 8 bytes


class Collective(NamedTuple):
    """One kind of collective of a step, `times` of them.

    bytes: of an all-reduce what each rank puts in; of an all-gather what each rank gives; of a reduce-scatter
    what each rank takes; of an all-to-all what each rank has for all, itself included. Of one of them.
    """

    what: str  # gradients, weights, batch norm, method, agreement
    kind: str  # all_reduce, reduce_scatter, all_gather, all_to_all
    bytes: float
    times: int

    def sent(self, world_size: int) -> float:
        """Bytes that a rank sends for all of them, by the rings that NCCL and gloo take for large ones."""
        return self.times * SENT[self.kind](self.bytes, world_size)


SENT: dict[str, Callable[[float, int], float]] = {
    "all_reduce": lambda size, ranks: 2 * size * (ranks - 1) / ranks,
    "reduce_scatter": lambda size, ranks: size * (ranks - 1),
    "all_gather": lambda size, ranks: size * (ranks - 1),
    "all_to_all": lambda size, ranks: size * (ranks - 1) / ranks,
}


def collectives_of_step(config: RunConfig, work: Workload, world_size: int) -> list[Collective]:
    """The collectives of a step of the engine; [] on one rank.

    Left out are those of single numbers that DeepSpeed adds above stage 0 (overflow, gradient norm), and
    those of LARS's norms.
    """
    if world_size == 1:
        return []
    return [
        *gradient_collectives(config, work, world_size),
        *batchnorm_collectives(config, work, world_size),
        *method_collectives(config, work, world_size),
        Collective("agreement", "all_reduce", 4 * DOUBLE, 1),  # the meeting of ranks before a step
    ]


def gradient_collectives(config: RunConfig, work: Workload, world_size: int) -> list[Collective]:
    """What DeepSpeed sends as the engine sets it up: whole sums at stages 0 to 2, shares of them at stage 3.

    Rajbhandari et al. 2020, section 7, scatter the sums of stages 1 and 2. DeepSpeed (0.19, with
    `use_multi_rank_bucket_allreduce` as it stands) makes all-reduces there too, so that with the updated
    weights, which are gathered after the step, they send 3 P numbers a rank where stage 0 sends 2 P.

    Gradients are summed in float32 at every precision, in buckets; weights travel in the network's own type,
    one gather a group of the optimiser, counted as one. Of buckets and of the groups in which stage 3 gathers
    ahead it counts the fewest that hold all: no weight is cut, so a bucket may stay partly empty.
    """
    gradients, own = FLOAT32 * work.weights, (FLOAT32 if config.precision == "fp32" else HALF) * work.weights
    if config.zero.stage == 0:
        return [in_parts("gradients", "all_reduce", gradients, work.weights, ALL_REDUCED)]
    if config.zero.stage < 3:
        return [
            in_parts("gradients", "all_reduce", gradients, work.weights, REDUCE_BUCKET),
            Collective("weights", "all_gather", own / world_size, 1),
        ]
    scattered, gathered = gradients / world_size, own / world_size
    times, uses = config.accumulation, uses_of_weights(config, work)
    return [
        in_parts("gradients", "reduce_scatter", scattered, work.weights, REDUCE_BUCKET, times=times),
        in_parts("weights", "all_gather", gathered, work.weights, PREFETCH, times=uses),
    ]


def uses_of_weights(config: RunConfig, work: Workload) -> int:
    """How often a step of stage 3 gathers every weight.

    Where all of them fit what may be there at once, they are kept: one gather a step, or with A micro-batches
    (2 A - 1 forwards and A backwards, between which nothing is kept) one a pass. Where they do not, one for
    each forward of the backbone in each pass. Recorded on two ranks, with the limits made small: between 0.98
    and 1.03 times as much.
    """
    passes = 3 * config.accumulation - 1
    if work.weights <= MAX_LIVE:
        return 1 if config.accumulation == 1 else passes
    return passes * work.forwards


def in_parts(what: str, kind: str, size: float, weights: int, most: int, *, times: int = 1) -> Collective:
    """So many bytes of all weights, `times` times, in the fewest parts of `most` weights each."""
    parts = math.ceil(weights / most)
    return Collective(what, kind, size / parts, parts * times)


def batchnorm_collectives(config: RunConfig, work: Workload, world_size: int) -> list[Collective]:
    """The statistics of each BatchNorm of student (forward and backward) and teacher (forward); float32.

    On a GPU (torch's SyncBatchNorm) 2 C + 1 numbers gathered and 2 C summed; on a CPU (`GlobalBatchNorm`)
    C + 1 and C numbers summed, and 2 C. With A micro-batches 2 A - 1 forwards and A backwards.
    """
    found = []
    passes = [
        (work.batchnorm_channels, 2 * config.accumulation - 1, config.accumulation),
        (work.teacher_batchnorm_channels, config.accumulation, 0),
    ]
    for calls, forwards, backwards in passes:
        for channels in sorted(set(calls)):
            of_one = _of_batchnorm(channels, config.device == "cpu")
            for kind, numbers, is_backward in of_one:
                times = calls.count(channels) * (backwards if is_backward else forwards)
                found.append(Collective("batch norm", kind, FLOAT32 * numbers, times))
    return [one for one in found if one.times]


def _of_batchnorm(channels: int, on_cpu: bool) -> list[tuple[str, int, bool]]:
    """(kind, numbers, of the backward) of one BatchNorm."""
    if on_cpu:
        sums = [("all_reduce", channels + 1, False), ("all_reduce", channels, False)]
    else:
        sums = [("all_gather", 2 * channels + 1, False)]
    return [*sums, ("all_reduce", 2 * channels, True)]


def method_collectives(config: RunConfig, work: Workload, world_size: int) -> list[Collective]:
    """What the loss and the targets send; the docstrings of `hydes_loss`, `cross_joint_entropy` and
    `teacher_targets` have the same numbers.
    """
    images = config.batch_size // world_size
    method = config.method
    if isinstance(method, HydesConfig):
        # Triton multiplies half types as they are (`kernel_dtype`); all else goes up to float32.
        size = HALF if config.loss_precision == "model" and config.device != "cpu" else FLOAT32
        return _hydes(images * work.num_views, work.embedding_dim, size)
    if isinstance(method, ImsvdConfig):
        pairs = work.num_views * (work.num_views - 1) // 2
        return _imsvd(images, work.embedding_dim, pairs, is_self=method.joint == "self")
    loss = [
        Collective("method", "all_reduce", SHAPES, 1),
        Collective("method", "all_reduce", FLOAT32, 1),
    ]
    if isinstance(method, DistillConfig):
        return [Collective("method", "all_reduce", SHAPES, 1), *_distill(method), *loss]
    return loss


def _hydes(vectors: int, dim: int, size: int) -> list[Collective]:
    return [
        Collective("method", "all_reduce", SHAPES, 1),
        Collective("method", "all_gather", size * vectors * dim, 1),  # embeddings
        Collective("method", "all_gather", FLOAT32 * vectors, 1),  # the rows' log sums
        Collective("method", "all_reduce", FLOAT32, 1),  # the local term
    ]


def _imsvd(images: int, dim: int, pairs: int, *, is_self: bool) -> list[Collective]:
    """Each pair of views: q' gathered, the columns of q'' to their owners, and the way back of both."""
    probabilities = FLOAT32 * images * dim
    small = [
        Collective("method", "all_reduce", SHAPES, pairs),
        Collective("method", "all_reduce", FLOAT32, pairs),  # invariance
    ]
    if is_self:  # each of the two views by itself
        return [
            *small,
            Collective("method", "all_gather", probabilities, 2 * pairs),
            Collective("method", "all_to_all", probabilities, 2 * pairs),
            Collective("method", "all_reduce", 2 * FLOAT32, 2 * pairs),
            Collective("method", "all_reduce", FLOAT32 * dim, 2 * pairs),
        ]
    return [
        *small,
        Collective("method", "all_gather", probabilities, pairs),
        Collective("method", "all_to_all", probabilities, 2 * pairs),
        Collective("method", "reduce_scatter", probabilities, pairs),
        Collective("method", "all_reduce", 2 * FLOAT32, pairs),
    ]


def _distill(method: DistillConfig) -> list[Collective]:
    """The statistic of the targets: a prior, a centre or moments over ranks."""
    clusters = method.num_clusters
    if method.normalization == "sinkhorn":
        return [Collective("method", "all_gather", FLOAT32 * clusters, SINKHORN_ITERATIONS)]
    if method.normalization == "none" or method.scope.kind == "dataset":
        return []
    if method.normalization == "batchnorm":
        return [Collective("method", "all_reduce", DOUBLE * (2 * method.projector.dim + 1), 1)]
    if method.scope.kind != "batch":
        return [Collective("method", "all_reduce", DOUBLE * (clusters + 1), 1)]
    kind = "all_gather" if method.normalization == "prior" else "all_reduce"
    return [Collective("method", kind, FLOAT32 * clusters, method.prior_iterations)]
