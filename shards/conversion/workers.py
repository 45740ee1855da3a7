"""Who writes the shards: worker processes, this process when one is enough, or a Ray cluster."""

import multiprocessing.context
import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol, TypeVar

from viewmill.shards.conversion.shard_job import Tell

_POLL_S = 0.2
# By the process that workers are forks of: as little as they need, for it is in the way of the first shard.
PRELOADED = (__name__, "viewmill.shards.conversion.shard_job")
# Counts of this worker process and its order to stop, set once when the process starts.
_shared: dict[str, Any] = {}


@dataclass(frozen=True)
class RayWorkers:
    """A Ray cluster in place of processes of this machine.

    at_once: shards written at the same time; None is one for each CPU of the cluster. address: HOST:PORT;
    None is the cluster that RAY_ADDRESS names, or that runs on this machine.
    """

    at_once: int | None = None
    address: str | None = None


Workers = int | RayWorkers  # a number of processes, or a cluster


class Job(Protocol):
    """What one call of a worker does, as plain values: the shard of this number."""

    @property
    def number(self) -> int: ...

    @property
    def local_paths(self) -> tuple[str, ...]:
        """Files and folders that whoever does it has to see."""


AnyJob = TypeVar("AnyJob", bound=Job)
Write = Callable[[AnyJob, Tell], None]  # a function of a module, so that a spawned process finds it


class Stopped(RuntimeError):
    """The conversion was called off while this shard was being written."""


def check_workers(workers: Workers) -> None:
    """Raises ValueError where there is nobody to work."""
    count = workers.at_once if isinstance(workers, RayWorkers) else workers
    if count is not None and count < 1:
        raise ValueError(f"workers must be at least 1, got {count}")


def write_shards(
    jobs: list[AnyJob], write: Write[AnyJob], workers: Workers, counted: Callable[[int, int, int], None]
) -> None:
    """Calls `write` for each of these shards; `counted` is told totals: inputs, their bytes, quarantined.

    Raises:
        RuntimeError: a worker process died; as `ray_workers.write_shards_on_ray`.
    """
    if isinstance(workers, RayWorkers):
        from viewmill.shards.conversion.ray_workers import write_shards_on_ray

        write_shards_on_ray(jobs, write, workers.at_once, workers.address, counted)
    elif workers == 1 or len(jobs) <= 1:
        _write_here(jobs, write, counted)
    else:
        _write_in_processes(jobs, write, min(workers, len(jobs)), counted)


def _write_here(jobs: list[AnyJob], write: Write[AnyJob], counted: Callable[[int, int, int], None]) -> None:
    totals = [0, 0, 0]

    def tell(num_bytes: int, quarantined: bool) -> None:
        _add(totals, num_bytes, quarantined)
        counted(*totals)

    with warnings.catch_warnings():
        _hush_decoders()
        for job in jobs:
            write(job, tell)


def _write_in_processes(
    jobs: list[AnyJob], write: Write[AnyJob], workers: int, counted: Callable[[int, int, int], None]
) -> None:
    # What cannot be sent to another process is refused here: refused by the pool's own thread while the pool
    # ends, it would keep the interpreter from ending (CPython 3.11).
    ForkingPickler.dumps((write, jobs[0]))
    context = _context()
    # Read and set here without a lock: a worker that is killed while it holds one never gives it back.
    totals: Any = context.Array("q", 3)
    stop = context.RawValue("b", 0)
    given = (totals, stop, dict(os.environ))
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=given) as pool:
        futures: list[Future[None]] = []
        try:
            for job in jobs:
                futures.append(pool.submit(_write_in_worker, write, job))
            pending = set(futures)
            while pending:
                pending = _collect(pending)
                counted(*totals.get_obj()[:])
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a conversion worker died (killed, out of memory, or started by a script without an "
                "`if __name__ == '__main__'` guard); finished shards are kept: run the same command again, "
                "with fewer workers if memory was short"
            ) from error
        except BaseException:
            stop.value = 1
            for future in futures:
                future.cancel()
            pool.shutdown(wait=False)
            raise


def expect_workers(workers: Workers) -> None:
    """Lets the imports of worker processes begin, while the caller makes the plan."""
    if isinstance(workers, int) and workers > 1:
        _context()
        forkserver.ensure_running()


def _context() -> multiprocessing.context.ForkServerContext:
    """Workers are forks of a small process that has imported what they need, and nothing else.

    Never of this one: the caller may hold threads and locks of other libraries. Where the caller has such a
    process already, it stays as it is.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def _collect(pending: "set[Future[None]]") -> "set[Future[None]]":
    """Waits a moment; returns what is still pending and raises what a worker raised."""
    done, pending = wait(pending, timeout=_POLL_S, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
    return pending


def _start(totals: Any, stop: Any, variables: dict[str, str]) -> None:
    """First act of a worker process."""
    _shared.update(totals=totals, stop=stop)
    os.environ.clear()
    os.environ.update(variables)  # not those of the moment when the process that it is a fork of began
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which calls the workers off
    _hush_decoders()
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _hush_decoders() -> None:
    warnings.simplefilter("ignore")  # remarks on odd files: what matters stands in the quarantine


def _exit_with_parent() -> None:
    # A worker waits for jobs on a pipe that it holds itself: without this it would outlive a killed parent.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_in_worker(write: Write[AnyJob], job: AnyJob) -> None:
    def tell(num_bytes: int, quarantined: bool) -> None:
        if _shared["stop"].value:
            raise Stopped(f"shard {job.number} was called off")
        with _shared["totals"].get_lock():
            _add(_shared["totals"], num_bytes, quarantined)

    write(job, tell)


def _add(totals: Any, num_bytes: int, quarantined: bool) -> None:
    totals[0] += 1
    totals[1] += num_bytes
    totals[2] += quarantined
