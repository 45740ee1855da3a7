"""The kernel as a C function, for the compiled code of other libraries.

They call it by its address. Were it called as a compiled function, numba would compile the whole kernel anew
into each of their functions, which takes ten seconds a time.
"""

import functools
from typing import Any

import numpy as np
from numba import carray, types
from viewmill.pipelines.executors.host.compiled import SOURCES, compiled, kept_callback
from viewmill.pipelines.executors.host.image import render_image, scratch_for
from viewmill.pipelines.executors.host.kernel import COLUMNS
from viewmill.pipelines.executors.host.pointers import float32s, float64s, int64s, pointer
from viewmill.pipelines.executors.host.writing import form_of, normalisation_of
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.spec import ViewSpec


def settings_for(spec: ViewSpec, view_format: ViewFormat) -> int:
    """What a spec and a view format mean to the kernel: the address of its settings, good while the process
    lives, for code that was compiled with it may live as long.
    """
    return int(_settings(spec, view_format)[0].ctypes.data)


@functools.cache
def _settings(spec: ViewSpec, view_format: ViewFormat) -> tuple[np.ndarray, ...]:
    """(5,) int64, of which the last three are the addresses of the other arrays."""
    arrays = (
        np.array(spec.sizes, np.int64),
        np.array([view.interpolation == "bicubic" for view in spec.views], np.int64),
        normalisation_of(spec, view_format),
    )
    addresses = [array.ctypes.data for array in arrays]
    return np.array([spec.num_views, form_of(view_format), *addresses], np.int64), *arrays


def _make() -> Any:
    """(address of the pixels, H, W, address of the plan's row, of the memory's addresses, of the settings)
    -> 1, or 0: a box leaves the image. All are int64.
    """
    sources = SOURCES  # in the closure, and so in the key of what is kept

    def render(rgb, height, width, plan, memory, settings):
        numbers = carray(int64s(settings), 5 + sources * 0)
        num_views, form = numbers[0], numbers[1]
        sizes = carray(int64s(numbers[2]), num_views)
        bicubic = carray(int64s(numbers[3]), num_views) != 0
        normalisation = carray(float32s(numbers[4]), (2, 3))
        picture = carray(pointer(rgb), (height, width, 3))
        table = carray(float64s(plan), (num_views, len(COLUMNS)))
        scratch = np.empty(scratch_for(picture, table, sizes, bicubic), np.float32)
        addresses = carray(int64s(memory), num_views)
        fits = render_image(picture, table, sizes, bicubic, normalisation, form, addresses, scratch)
        return np.int64(1) if fits else np.int64(0)

    return kept_callback(types.int64(*[types.int64] * 6))(render)


_RENDER = _make()
_CALL = _RENDER.ctypes  # compiled code takes a function of ctypes for its address


@compiled
def render_views(rgb, plan, memory, settings):
    """All views of one image, by the address of the kernel; whether every box lies in the image.

    Args:
        rgb: (H, W, 3) uint8, C-contiguous, upright.
        plan: address of the image's row of `plan_table`.
        memory: (V,) int64 addresses that the views are written to.
        settings: of `settings_for`.
    """
    # A function of its own, for its caller keeps the arrays: numba frees one after its last mention, and an
    # address is none.
    height, width, _ = rgb.shape
    return _CALL(rgb.ctypes.data, height, width, plan, memory.ctypes.data, settings) == 1
