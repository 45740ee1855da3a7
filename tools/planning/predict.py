"""The prediction: seconds of each resource in a step, which one binds, memory, traffic, hours and money."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from viewmill.engine.config import RunConfig
from viewmill.engine.strict import ConfigError
from viewmill.engine.trainer import last_step
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.formulas import Book, Formula
from viewmill.tools.planning.images import Images
from viewmill.tools.planning.loss_flops import loss_flops
from viewmill.tools.planning.measured import Measured
from viewmill.tools.planning.rank_memory import RankMemory, rank_memory
from viewmill.tools.planning.step import Step, binding_of, step_of, view_threads
from viewmill.tools.planning.traffic import Collective, collectives_of_step
from viewmill.tools.planning.view_makers import images_per_device_s, is_on_device
from viewmill.tools.planning.workload import Workload

CACHED_FRACTION = 0.7  # of the host's memory that the page cache may have, beside the ranks; assumption


class Plan(NamedTuple):
    """What is asked."""

    config: RunConfig
    work: Workload
    images: Images
    cluster: Cluster
    rates: Measured


class Prediction(NamedTuple):
    """What is said; times in seconds of one optimiser step, of the slowest rank."""

    plan: Plan
    seconds: dict[str, float]  # of each of RESOURCES, as if alone
    step: Step
    binding: str
    images_per_s: float
    steps_per_epoch: int
    hours: float  # without failures
    cost: float | None
    memory: RankMemory
    sent_bytes: dict[str, float]  # by what, of a rank
    cache_bytes: float  # that a node's page cache needs for no image to be read twice
    is_cached: bool
    formulas: list[Formula]

    @property
    def step_s(self) -> float:
        return self.step.seconds

    @property
    def world_size(self) -> int:
        return self.plan.cluster.world_size


def check_fits(config: RunConfig, images: Images, world_size: int) -> None:
    """Raises ConfigError where the batch is no equal shares, or there are fewer images."""
    parts = world_size * config.accumulation
    if config.batch_size % parts:
        above = config.batch_size + parts - config.batch_size % parts
        raise ConfigError(
            f"batch_size={config.batch_size} is not a multiple of {world_size} ranks x accumulation "
            f"{config.accumulation}; set batch_size={above}, or other --nodes"
        )
    if images.count < config.batch_size:
        raise ConfigError(f"batch_size={config.batch_size} is larger than the {images.count} images")


def predict(plan: Plan) -> Prediction:
    """By formulas alone; nothing is trained. `step_of` says how the resources make a step.

    Raises:
        ConfigError: batch, ranks and images do not fit each other.
    """
    config, images, cluster = plan.config, plan.images, plan.cluster
    check_fits(config, images, cluster.world_size)
    book = Book()
    cache_bytes, is_cached = page_cache(plan, book)
    compute_s = compute_seconds(plan, book)
    seconds = {
        "compute": compute_s,
        "loss": loss_seconds(plan, book),
        "device_views": device_view_seconds(plan, book),
        "decode": decode_seconds(plan, book),
        "storage": storage_seconds(plan, book, is_cached),
        "network": network_seconds(plan, book, compute_s),
    }
    shares_cores = plan.rates.shares_cores
    step = step_of(seconds, config, cluster, book, shares_cores=shares_cores)
    step_s = step.seconds
    images_per_s = book.put("images_per_s", "B/step_s", {"B": config.batch_size, "step_s": step_s}, "1/s")
    steps_per_epoch = images.count // config.batch_size
    total = last_step(config, steps_per_epoch)
    hours = book.put("hours", "steps*step_s/3600", {"steps": total, "step_s": step_s}, "h", "no failures")
    price, cost = cluster.price_per_node_hour, None
    if price is not None:
        cost = book.put("cost", "hours*nodes*price", {"hours": hours, "nodes": cluster.nodes, "price": price})
    memory = rank_memory(config, plan.work, cluster.world_size, book)
    return Prediction(
        plan=plan,
        seconds=seconds,
        step=step,
        binding=binding_of(seconds, shares_cores=shares_cores),
        images_per_s=images_per_s,
        steps_per_epoch=steps_per_epoch,
        hours=hours,
        cost=cost,
        memory=memory,
        sent_bytes=sent_by_what(plan),
        cache_bytes=cache_bytes,
        is_cached=is_cached,
        formulas=book.formulas,
    )


def compute_seconds(plan: Plan, book: Book) -> float:
    """Forward and backward of student and teacher, and the optimiser's update, on one rank."""
    config, work, rates = plan.config, plan.work, plan.rates
    images = config.batch_size // plan.cluster.world_size
    # Micro-batches: all but the last have a second forward. Checkpointed activations: the backbone's again.
    forwards = 3 + (config.accumulation - 1) / config.accumulation
    forwards += 1 if config.model.checkpoint_activations else 0
    numbers: dict[str, float] = {
        "n": images,
        "k": forwards,
        "conv": work.conv_flops,
        "matmul": work.matmul_flops,
        "t_conv": work.teacher_conv_flops,
        "t_matmul": work.teacher_matmul_flops,
        "F_conv": rates.conv_flops_per_s,
        "F_matmul": rates.matmul_flops_per_s,
        "P": work.weights / (plan.cluster.world_size if config.zero.stage else 1),
        "U": rates.weights_per_s,
        "o": rates.step_overhead_s,
        "i": rates.image_overhead_s,
    }
    rule = "n*((k*conv + t_conv)/F_conv + (k*matmul + t_matmul)/F_matmul + i) + P/U + o"
    if rates.activation_bytes_per_s is not None:
        numbers |= {"a": work.activation_bytes, "F_a": rates.activation_bytes_per_s}
        rule += " + n*a/F_a"
    if rates.global_norm_s + rates.global_norm_call_s and plan.cluster.world_size > 1:
        numbers |= {"norms": work.batchnorm_numbers, "g": rates.global_norm_s}
        calls = config.accumulation * len(work.batchnorm_channels)
        numbers |= {"calls": calls, "c": rates.global_norm_call_s}
        rule += " + (k - 2)*(n*norms*g + calls*c)"
    return book.put("compute", rule, numbers, "s", rates.source)


def loss_seconds(plan: Plan, book: Book) -> float:
    gpu = plan.cluster.gpu
    flops = loss_flops(plan.config, plan.work, plan.cluster.world_size, triton=gpu is not None and gpu.triton)
    return book.put("loss", "f/F_loss", {"f": flops, "F_loss": plan.rates.loss_flops_per_s}, "s")


def device_view_seconds(plan: Plan, book: Book) -> float:
    """Decoding and rendering on the device that trains; 0 on the host's cores, or where not modelled."""
    gpu = plan.cluster.gpu
    if gpu is None or not is_on_device(plan.config):
        return 0.0
    rate = images_per_device_s(plan.config, plan.work, gpu)
    if rate is None:
        return 0.0
    numbers = {"n": plan.config.batch_size // plan.cluster.world_size, "rate": rate}
    return book.put("device_views", "n/rate", numbers, "s", f"assumption: {gpu.dali_source}")


def decode_seconds(plan: Plan, book: Book) -> float:
    """Reading, decoding and rendering on the cores of a node, or of a rank that has its own; 0 where the
    device makes the views.
    """
    if is_on_device(plan.config):
        return 0.0
    rates, cluster = plan.rates, plan.cluster
    views = rates.views
    image_s = book.put(
        "core_s_per_image",
        "i + d*src + v*out",
        {
            "i": views.image_s,
            "d": views.source_pixel_s,
            "src": plan.images.mean_pixels,
            "v": views.view_pixel_s,
            "out": plan.work.view_pixels,
        },
        "s",
        views.source,
    )
    batch = plan.config.batch_size
    if rates.shares_cores:
        numbers = {"n": batch // cluster.world_size, "c": image_s}
        return book.put("decode", "n*c", numbers, "s", "on the rank's own core, not overlapped")
    threads = view_threads(plan.config, cluster)
    cores = min(threads, cluster.physical_cores)
    numbers = {"n": batch / cluster.nodes, "c": image_s, "cores": cores}
    if threads > cores:
        numbers["cores"] = cores * min(views.smt_gain, threads / cores)
    return book.put("decode", "n*c/cores", numbers, "s", "views.num_threads a rank, at most the node's cores")


def page_cache(plan: Plan, book: Book) -> tuple[float, bool]:
    """Bytes of the data set, which every node reads nearly all of in some epochs, and whether they fit."""
    need = book.put(
        "cache_bytes", "images*bytes", {"images": plan.images.count, "bytes": plan.images.mean_bytes}, "B"
    )
    room = 1e9 * plan.cluster.host_memory_gb * CACHED_FRACTION
    return need, need <= room


def storage_seconds(plan: Plan, book: Book, is_cached: bool) -> float:
    """Reading a node's images of a step; where the page cache has the data set, of the first epoch alone."""
    cluster = plan.cluster
    share = cluster.storage_gb_s
    if cluster.storage_total_gb_s is not None:
        share = min(share, cluster.storage_total_gb_s / cluster.nodes)
    epochs = max(1, plan.config.epochs)
    # Another node's images come in each epoch: a node has all but (1 - 1/N)^e of them after e epochs.
    cold = 1.0
    if is_cached:
        fresh = sum((1 - 1 / cluster.nodes) ** epoch for epoch in range(min(epochs, 10_000)))
        cold = min(1.0, fresh / epochs)
    return book.put(
        "storage",
        "n*bytes*cold/(1e9*gb_s)",
        {
            "n": plan.config.batch_size / cluster.nodes,
            "bytes": plan.images.mean_bytes,
            "cold": cold,
            "gb_s": share,
        },
        "s",
        "mean over the epochs; cold: share of images that the page cache does not have",
    )


def network_seconds(plan: Plan, book: Book, compute_s: float) -> float:
    """Exposed time of the collectives: gradients are summed when the backward has ended (DeepSpeed without
    overlap_comm, as the engine tells it); stage 3's gathers run ahead of the layers, and show where they take
    longer than the computation.
    """
    found = collectives_of_step(plan.config, plan.work, plan.cluster.world_size)
    exposed = sum(collective_seconds(one, plan) for one in found if not is_hidden(one, plan.config))
    hidden = sum(collective_seconds(one, plan) for one in found if is_hidden(one, plan.config))
    sent = sum(one.sent(plan.cluster.world_size) for one in found)
    return book.put(
        "network",
        "exposed + max(0, hidden - compute)",
        {"exposed": exposed, "hidden": hidden, "compute": compute_s, "sent_bytes": sent},
        "s",
        "latency and slowest link of each collective, summed",
    )


def is_hidden(one: Collective, config: RunConfig) -> bool:
    return config.zero.stage == 3 and one.what == "weights"


def collective_seconds(one: Collective, plan: Plan) -> float:
    """Latency, and bytes over the slowest link: a rank's, or the network card that a node's ranks share."""
    cluster, rates = plan.cluster, plan.rates
    ranks, local = cluster.world_size, min(cluster.local_ranks, cluster.world_size)
    latency = rates.latency_s
    if latency is None:
        doublings = (cluster.nodes - 1).bit_length()
        latency = 1e-6 * (cluster.latency_us + doublings * cluster.latency_per_doubling_us)
    sent = one.sent(ranks)
    link = 1e9 * (rates.rank_gb_s or cluster.link_gb_s * cluster.network_fraction)
    times = [sent / link if local > 1 else 0.0]
    if cluster.nodes > 1:
        # Rings: what a rank sends to the next node leaves its node once. Parts of its own for every rank: of
        # all ranks of a node, as far as the others are elsewhere.
        leaving = sent * local * (ranks - local) / (ranks - 1) if one.kind == "all_to_all" else sent
        times.append(leaving / (1e9 * cluster.nic_gb_s * cluster.network_fraction))
    return one.times * latency + max(times)


def sent_by_what(plan: Plan) -> dict[str, float]:
    """Bytes that a rank sends in a step."""
    found: dict[str, float] = {}
    for one in collectives_of_step(plan.config, plan.work, plan.cluster.world_size):
        found[one.what] = found.get(one.what, 0.0) + one.sent(plan.cluster.world_size)
    return found


def by_stage(plan: Plan, stages: Sequence[int] = (0, 1, 2, 3)) -> list[dict[str, Any]]:
    """Memory and gradient traffic of the same run at each ZeRO stage, and with its optimiser offloaded."""
    rows = []
    for stage in stages:
        for offload in (False, True) if stage and plan.cluster.gpu is not None else (False,):
            zero = plan.config.zero.model_copy(update={"stage": stage, "offload_optimizer": offload})
            changed = plan._replace(config=plan.config.model_copy(update={"zero": zero}))
            memory = rank_memory(changed.config, plan.work, plan.cluster.world_size)
            sent = sent_by_what(changed)
            rows.append(
                {
                    "stage": stage,
                    "offload_optimizer": offload,
                    "held_bytes": memory.held,
                    "peak_bytes": memory.peak,
                    "host_bytes": memory.host,
                    "sent_bytes": sent.get("gradients", 0.0) + sent.get("weights", 0.0),
                    "fits": fits(memory, plan.cluster),
                }
            )
    return rows


def fits(memory: RankMemory, cluster: Cluster) -> bool:
    """Whether a rank's peak, with a tenth left free, is within its device, or the ranks' within the host."""
    if cluster.gpu is not None:
        return memory.peak <= 0.9e9 * cluster.gpu.memory_gb
    return memory.peak * cluster.local_ranks <= 0.9e9 * cluster.host_memory_gb
