"""Runs a per-image function over a batch on several threads or processes, and counts all their CPU time."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import torch
from viewmill.pipelines.plans.spec import ViewSpec

KINDS = ("threads", "processes")
_transform: Callable[[bytes], Any] | None = None  # of a pool's process


class ImagePool:
    """`threads` workers that apply `make(spec)` to images; what it makes of them stays with the workers.

    Nothing is sent back from a process, which flatters processes: a loader would have to move the views.

    Args:
        kind: "threads" or "processes".
        make: a function of a module, spec -> per-image transform.
        threads: workers; with one, threads means the caller's own.
    """

    def __init__(self, kind: str, make: Callable[[ViewSpec], Any], spec: ViewSpec, threads: int) -> None:
        self.kind = kind
        self._own = make(spec) if kind == "threads" else None
        self._pool: Executor | None = None
        self._threads = threads
        if kind == "processes":
            self._pool = ProcessPoolExecutor(
                threads, multiprocessing.get_context("spawn"), initializer=_start, initargs=(make, spec)
            )
        elif threads > 1:
            self._pool = ThreadPoolExecutor(threads)

    def __call__(self, images: list[bytes]) -> float:
        """Transforms the images; returns the CPU seconds spent in other processes."""
        if self._pool is None:
            views = [self._own(image) for image in images]  # type: ignore[misc]
        elif self.kind == "threads":
            views = list(self._pool.map(self._own, images))  # type: ignore[arg-type]
        else:
            chunk = -(-len(images) // (4 * self._threads))
            return sum(self._pool.map(_run, images, chunksize=chunk))
        del views
        return 0.0

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _start(make: Callable[[ViewSpec], Callable[[bytes], Any]], spec: ViewSpec) -> None:
    global _transform
    torch.set_num_threads(1)
    _transform = make(spec)


def _run(image: bytes) -> float:
    began_s = time.process_time()
    assert _transform is not None  # the pool's initializer has set it
    _transform(image)
    return time.process_time() - began_s
