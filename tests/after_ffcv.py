"""FFCV's own Loader changes the process that it runs in; here that is undone."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch


@contextmanager
def ffcvs_changes_undone() -> Iterator[None]:
    """Around every use of FFCV's Loader: what numba compiles afterwards may write to its arrays again.

    The Loader sets the number of threads, and marks four types of arrays as read-only for the whole process.
    """
    torch_threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    marked = (numba.uint8[::1], numba.uint8[:, ::1], numba.uint32[::1], numba.uint64[::1])
    try:
        yield
    finally:
        # What FFCV compiled goes while numba still finds it: it is kept by the types as they are marked.
        gc.collect()
        torch.set_num_threads(torch_threads)
        numba.set_num_threads(numba_threads)
        for kind in marked:
            kind.mutable = True
