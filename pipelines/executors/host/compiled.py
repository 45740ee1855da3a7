"""How the functions here are compiled: without the GIL, and kept on disk: a machine compiles once."""

import hashlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba

log = logging.getLogger(__name__)

# numba asks only whether the file of a kept function has changed, not those of the functions that it calls.
# An entry point therefore closes over this number, and what a function closes over is part of its key.
SOURCES = int.from_bytes(
    hashlib.sha256(
        b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    ).digest()[:7],
    "little",
)


# Sums may be fused (a * b + c rounded once) but not reordered.
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Any:
    """A function of compiled code for other compiled code to call. Runs without the GIL."""
    return numba.njit(**OPTIONS)(function)


def kept(function: Callable[..., Any]) -> Any:
    """An entry point: compiled at the first call on a machine (10 s), later read from disk (0.1 s).

    It is kept in NUMBA_CACHE_DIR where that is set, else in `__pycache__` beside this file, else (a package
    that may not be written to) in the user's cache folder. With none of them each process compiles anew.
    """
    return _kept(numba.njit, function)


def kept_callback(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """A C function of this signature, compiled when it is made, and kept as an entry point is."""
    return lambda function: _kept(partial(numba.cfunc, signature), function)


def _kept(compiler: Callable[..., Any], function: Callable[..., Any]) -> Any:
    try:
        return compiler(cache=True, **OPTIONS)(function)
    except RuntimeError as error:  # numba finds no folder that it may write to
        log.warning("the host executor is compiled anew in every process; set NUMBA_CACHE_DIR: %s", error)
        return compiler(**OPTIONS)(function)
