"""Shards written by a Ray cluster: one task a shard, on whichever node has a free CPU.

Every node sees the source and DATASET under the same paths; a node that does not is found before any shard is
written.
"""

import os
import socket
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import PIL
import pyarrow as pa
from viewmill.shards.conversion.shard_job import Tell

_POLL_S = 0.5
_CONNECT_S = 10.0  # Ray itself tries a wrong address for minutes
_TASK_RETRIES = (
    2  # of a task whose process or node died; a shard is whole or absent, so writing it again is safe
)


class NodeState(NamedTuple):
    """What a node says of itself. releases: of what decides on bytes; missing: paths that it does not see."""

    host: str
    releases: dict[str, str]
    missing: tuple[str, ...]


def write_shards_on_ray(
    jobs: list[Any],
    write: Callable[[Any, Tell], None],
    workers: int | None,
    address: str | None,
    counted: Callable[[int, int, int], None],
) -> None:
    """Calls `write` for each of these shards on the cluster; `counted` is told totals after each of them.

    Args:
        jobs: the shards; their paths are valid on every node.
        workers: shards written at once; None is one for each of the cluster's CPUs.
        address: HOST:PORT of the cluster; None is the one that RAY_ADDRESS names, or that runs here.

    Raises:
        ModuleNotFoundError: Ray is not installed. ValueError: no HOST:PORT. RuntimeError: no cluster, a node
            that does not see the files or has other releases, or a task that died again and again.
    """
    if not jobs:
        return
    ray = _imported()
    connect_here = not ray.is_initialized()
    if connect_here:
        _connect(ray, address or os.environ.get("RAY_ADDRESS") or "auto")
    try:
        _refuse_unfit_nodes(ray, jobs[0].local_paths)
        _write(ray, jobs, write, workers or _num_cpus(ray), counted)
    finally:
        if connect_here:
            ray.shutdown()


def _imported() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--engine ray needs Ray; install it: pip install 'viewmill[ray]'"
        ) from error
    return ray


def _connect(ray: Any, address: str) -> None:
    remedy = "start one with `ray start --head`, or name one with --ray-address HOST:PORT"
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"--ray-address is HOST:PORT, got '{address}'")
        try:
            socket.create_connection((host, int(port)), _CONNECT_S).close()
        except OSError as error:
            raise RuntimeError(f"--engine ray: nothing answers at {address} ({error}); {remedy}") from error
    try:
        # What nodes print would tear the progress bar; a failure arrives as an exception.
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = "on this machine" if address == "auto" else f"at {address}"
        raise RuntimeError(f"--engine ray: no Ray cluster {where}; {remedy} ({_last_line(error)})") from error


def _num_cpus(ray: Any) -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _refuse_unfit_nodes(ray: Any, paths: tuple[str, ...]) -> None:
    """Asks every node; one without the source would quarantine all of its images as unreadable."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = state_of_node(paths)
    ask = ray.remote(state_of_node)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    answers = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers.append(ask.options(num_cpus=0, scheduling_strategy=there).remote(paths))
    for node, answer in zip(nodes, answers, strict=True):
        try:
            state = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise RuntimeError(
                f"Ray node {node['NodeManagerAddress']}: cannot run Viewmill ({_last_line(error)}); "
                "install the same release of it on every node"
            ) from error
        fault = fault_of_node(state, here)
        if fault is not None:
            raise RuntimeError(f"Ray node {node['NodeManagerAddress']} ({state.host}): {fault}")


def state_of_node(paths: Iterable[str]) -> NodeState:
    """What this machine is, and which of the paths it does not see."""
    missing = tuple(path for path in paths if not Path(path).exists())
    releases = {"Pillow": PIL.__version__, "pyarrow": pa.__version__, "zlib": zlib.ZLIB_RUNTIME_VERSION}
    return NodeState(socket.gethostname(), releases, missing)


def fault_of_node(state: NodeState, here: NodeState) -> str | None:
    """Why a node cannot take part, or None; other releases may write other bytes."""
    if state.missing:
        return f"does not see {' and '.join(state.missing)}; all nodes need them under the same path"
    others = [name for name, release in here.releases.items() if state.releases.get(name) != release]
    if others:
        found = ", ".join(
            f"{name} {state.releases.get(name)} (here {here.releases[name]})" for name in others
        )
        return f"has other releases, which may write other bytes: {found}; install the same"
    return None


def _write(
    ray: Any,
    jobs: list[Any],
    write: Callable[[Any, Tell], None],
    at_once: int,
    counted: Callable[[int, int, int], None],
) -> None:
    task = ray.remote(write_counted).options(num_cpus=1, max_retries=_TASK_RETRIES)
    waiting, totals = list(reversed(jobs)), [0, 0, 0]
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop()
                running[task.remote(write, job)] = job.number
            done, _ = ray.wait(list(running), timeout=_POLL_S)
            for reference in done:
                counts = _result(ray, reference, running.pop(reference))
                totals = [old + new for old, new in zip(totals, counts, strict=True)]
            counted(*totals)
    finally:
        for reference in running:
            ray.cancel(reference)


def _result(ray: Any, reference: Any, number: int) -> tuple[int, int, int]:
    try:
        counts: tuple[int, int, int] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # The text of Ray's own exception is a traceback; its cause is what happened on the node.
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise RuntimeError(f"shard {number}: {_last_line(error)}") from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"shard {number}: its Ray task died {_TASK_RETRIES + 1} times ({_last_line(error)}); finished "
            "shards are kept: run the same command again, with fewer --workers if memory was short"
        ) from error
    return counts


def write_counted(write: Callable[[Any, Tell], None], job: Any) -> tuple[int, int, int]:
    """Writes a shard; the number of its inputs, their bytes, and how many were quarantined."""
    totals = [0, 0, 0]

    def tell(num_bytes: int, quarantined: bool) -> None:
        totals[0] += 1
        totals[1] += num_bytes
        totals[2] += quarantined

    write(job, tell)
    return totals[0], totals[1], totals[2]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
