"""What the C library does with memory that a step on the CPU has let go."""

import ctypes
import os

# Of mallopt, in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = ((_TRIM_THRESHOLD, 2**31 - 1), (_MMAP_THRESHOLD, 2**30), (_MMAP_MAX, 0))
_OWN_CHOICE = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, for the next step; False where the C library has no such thing.

    glibc gives large blocks back to the system when they are freed. A step then takes its activations from
    the system again, page after page, each cleared first: some per cent of a step. A program that
    computes the same thing again and again gains nothing by that. The peak grows a little, for what is kept
    is cut up.

    A choice that the environment makes (MALLOC_TRIM_THRESHOLD_ and its like) stands.
    """
    if any(name in os.environ for name in _OWN_CHOICE):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(what, value) == 1 for what, value in _KEEP)
