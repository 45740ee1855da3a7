"""What a step takes of resources that overlap, at least and at most, and which of them binds."""

from collections.abc import Mapping
from typing import NamedTuple

from viewmill.engine.config import RunConfig
from viewmill.tools.planning.cluster import Cluster
from viewmill.tools.planning.formulas import Book
from viewmill.tools.planning.view_makers import is_on_device

# decode: views on the node's cores; device_views: on the device that trains. One of the two is 0.
RESOURCES = ("compute", "loss", "device_views", "decode", "storage", "network")
ON_DEVICE = ("compute", "loss", "device_views", "network")  # one after the other


class Step(NamedTuple):
    """Seconds of an optimiser step."""

    seconds: float  # as predicted
    least: float  # views are made behind the device's work
    most: float  # nothing hides them


def step_of(
    seconds: Mapping[str, float], config: RunConfig, cluster: Cluster, book: Book, *, shares_cores: bool
) -> Step:
    """Composes the seconds of each of RESOURCES, as if alone.

    On GPUs reading, making views on the host's cores and the device's own work (compute, loss, exposed
    traffic, and views that are made there) overlap: a step takes the longest of the three. Where the threads
    that make views leave a rank's own ones, which launch kernels, copy batches and drive the network, no
    place to run (`is_crowded`), nothing published says how far the two still overlap; predicted is the
    geometric middle between all and nothing, of which either is the same factor. Ranks that compute on the
    cores that make their views do one after the other, and take turns where there are fewer cores than ranks.
    """
    numbers = dict(seconds)
    device = "compute + loss + network"
    if is_on_device(config):
        device = "compute + loss + device_views + network"
    if shares_cores:
        numbers["turns"] = max(1.0, cluster.local_ranks / cluster.physical_cores)
        rule = f"max(storage, turns*(decode + {device}))"
        step_s = book.put("step_s", rule, numbers, "s")
        return Step(step_s, step_s, step_s)
    rule = f"max(storage, decode, {device})"
    if not is_crowded(config, cluster):
        step_s = book.put("step_s", rule, numbers, "s")
        return Step(step_s, step_s, step_s)
    least = book.put("least_s", rule, numbers, "s", "views hidden behind the device")
    most = book.put("most_s", f"max(storage, decode + {device})", numbers, "s", "nothing hidden")
    source = "views leave the ranks no thread of the node: the middle between all hidden and nothing"
    step_s = book.put("step_s", "(least*most)**0.5", {"least": least, "most": most}, "s", source)
    return Step(step_s, least, most)


def view_threads(config: RunConfig, cluster: Cluster) -> int:
    """That make views on a node: `views.num_threads` a rank, at most as many as the node runs at once."""
    return min(cluster.local_ranks * config.views.num_threads, cluster.cpu_threads)


def is_crowded(config: RunConfig, cluster: Cluster) -> bool:
    """Whether the threads that make views leave no hardware thread of the node for each of its ranks."""
    return (
        not is_on_device(config) and view_threads(config, cluster) + cluster.local_ranks > cluster.cpu_threads
    )


def binding_of(seconds: Mapping[str, float], *, shares_cores: bool = False) -> str:
    """The resource whose speed decides the step's: a stage that nothing hides, else the longest part."""
    serial = (*ON_DEVICE, *(("decode",) if shares_cores else ()))
    device_s = sum(seconds[name] for name in serial)
    hidden = {name: seconds[name] for name in RESOURCES if name not in serial}
    longest = max(hidden, key=lambda name: hidden[name])
    if hidden[longest] > device_s:
        return longest
    return max(serial, key=lambda name: seconds[name])
