"""The smallest change that removes the bottleneck: changes of a plan, the cheapest tried first."""

from collections.abc import Iterator
from typing import NamedTuple

from viewmill.engine.strict import ConfigError
from viewmill.tools.planning.measured import from_datasheet
from viewmill.tools.planning.predict import CACHED_FRACTION, Plan, Prediction, fits, predict
from viewmill.tools.planning.step import is_crowded

MAX_FACTOR = 64  # of a number that is doubled until the bottleneck is gone
SIDES = (0.8, 0.64, 0.5)  # of images, when they are converted smaller


class Advice(NamedTuple):
    """A change, and what it is predicted to bring."""

    change: str
    binding: str  # afterwards
    images_per_s: float
    gain: float  # images/s afterwards over before
    removes: bool  # whether another resource binds afterwards


def advise(before: Prediction) -> Advice | None:
    """The first change after which another resource binds; if none does that, the one that gains most.

    Settings come first, then converting the images anew, then hardware. None: nothing helps.
    """
    tried = []
    for change, plan in changes(before):
        try:
            after = predict(plan)
        except ConfigError:  # such a batch has no equal shares, or the GPU no such precision
            continue
        if not fits(after.memory, plan.cluster) and fits(before.memory, before.plan.cluster):
            continue
        gain = after.images_per_s / before.images_per_s
        found = Advice(change, after.binding, after.images_per_s, gain, after.binding != before.binding)
        if found.removes and gain > 1:
            return found
        tried.append(found)
    best = max(tried, key=lambda one: one.gain, default=None)
    return best if best is not None and best.gain > 1.001 else None


def changes(before: Prediction) -> Iterator[tuple[str, Plan]]:
    """Changes that can speed up the resource that binds, the cheapest first."""
    if before.step.most > before.step.least:
        yield from fewer_threads(before.plan)
    yield from {
        "device_views": device_view_changes,
        "decode": decode_changes,
        "storage": storage_changes,
        "compute": compute_changes,
        "loss": loss_changes,
        "network": network_changes,
    }[before.binding](before.plan)
    if before.binding in ("compute", "loss", "device_views", "decode"):
        yield from more_nodes(before.plan)


def fewer_threads(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """As many as leave each rank of a node a hardware thread for its own ones."""
    number = plan.cluster.cpu_threads // plan.cluster.local_ranks - 1
    if number >= 1:
        yield f"views.num_threads={number}", with_threads(plan, number)


def with_threads(plan: Plan, number: int) -> Plan:
    views = plan.config.views.model_copy(update={"num_threads": number})
    return plan._replace(config=plan.config.model_copy(update={"views": views}))


def device_view_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """On the node's cores, with the threads that there are."""
    views = plan.config.views.model_copy(update={"executor": "host"})
    yield (
        "views.executor=host",
        plan._replace(config=plan.config.model_copy(update={"views": views})),
    )


def decode_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    threads = plan.config.views.num_threads
    most = plan.cluster.physical_cores // plan.cluster.local_ranks
    for number in [*(threads * 2**power for power in range(1, 7) if threads * 2**power < most), most]:
        changed = with_threads(plan, number)
        if number > threads and not is_crowded(changed.config, plan.cluster):
            yield f"views.num_threads={number}", changed
    yield from smaller_images(plan)
    yield from scaled(plan, "physical_cores", "cores a node")


def storage_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    need_gb = plan.images.total_bytes / 1e9 / CACHED_FRACTION
    if plan.cluster.host_memory_gb < need_gb:
        yield (
            f"{need_gb:,.0f} GB of memory a node, so that the page cache has the data set",
            plan._replace(cluster=plan.cluster.model_copy(update={"host_memory_gb": need_gb * 1.001})),
        )
    yield from smaller_images(plan)
    name = "storage_gb_s" if plan.cluster.storage_total_gb_s is None else "storage_total_gb_s"
    yield from scaled(plan, name, "GB/s of storage")


def compute_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    config, gpu = plan.config, plan.cluster.gpu
    if config.model.checkpoint_activations:
        model = config.model.model_copy(update={"checkpoint_activations": False})
        yield (
            "model.checkpoint_activations=false",
            plan._replace(config=config.model_copy(update={"model": model})),
        )
    if gpu is not None and config.precision == "fp32" and not plan.rates.shares_cores:
        precision = "bf16" if "bf16" in gpu.peak_tflops else "fp16"
        changed = config.model_copy(update={"precision": precision})
        yield (
            f"precision={precision}",
            plan._replace(config=changed, rates=from_datasheet(plan.cluster, changed)),
        )


def loss_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    config, gpu = plan.config, plan.cluster.gpu
    if gpu is not None and gpu.triton and config.precision == "bf16" and config.loss_precision != "model":
        changed = config.model_copy(update={"loss_precision": "model"})
        yield (
            "loss_precision=model",
            plan._replace(config=changed, rates=from_datasheet(plan.cluster, changed)),
        )


def network_changes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    config = plan.config
    for stage in (2, 0):
        if stage < config.zero.stage and not (stage == 0 and config.zero.offload_optimizer):
            zero = config.zero.model_copy(update={"stage": stage})
            yield f"zero.stage={stage}", plan._replace(config=config.model_copy(update={"zero": zero}))
    for factor in powers():
        batch = config.batch_size * factor
        yield (
            f"batch_size={batch} (and the learning rate with it)",
            plan._replace(config=config.model_copy(update={"batch_size": batch})),
        )
    yield from scaled(plan, "nic_gb_s", "GB/s of network cards a node")


def smaller_images(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Bytes and pixels fall with the square of the side."""
    for side in SIDES:
        images = plan.images.model_copy(
            update={
                "mean_bytes": plan.images.mean_bytes * side**2,
                "mean_pixels": plan.images.mean_pixels * side**2,
            }
        )
        yield f"images converted at {side:.0%} of their side", plan._replace(images=images)


def scaled(plan: Plan, name: str, what: str) -> Iterator[tuple[str, Plan]]:
    for factor in powers():
        value = getattr(plan.cluster, name) * factor
        update = {name: value}
        if name == "physical_cores":
            update["cpu_threads"] = plan.cluster.cpu_threads * factor
            threads = value // plan.cluster.local_ranks
            plan = with_threads(plan, max(1, threads, plan.config.views.num_threads))
        yield f"{value:g} {what}", plan._replace(cluster=plan.cluster.model_copy(update=update))


def more_nodes(plan: Plan) -> Iterator[tuple[str, Plan]]:
    for factor in powers():
        nodes = plan.cluster.nodes * factor
        yield f"{nodes} nodes", plan._replace(cluster=plan.cluster.with_nodes(nodes))


def powers() -> list[int]:
    return [2**power for power in range(1, MAX_FACTOR.bit_length())]
