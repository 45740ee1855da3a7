"""The kernel as a C function, for the compiled code of other libraries.

They call it by its address. Were it called as a compiled function, numba would compile the whole kernel anew
into each of their functions, which takes ten seconds a time.
"""

from typing import Any

import numpy as np
from numba import carray, types
from viewmill.pipelines.executors.host.compiled import SOURCES, kept_callback
from viewmill.pipelines.executors.host.image import render_image, scratch_for
from viewmill.pipelines.executors.host.kernel import COLUMNS
from viewmill.pipelines.executors.host.pointers import float32s, float64s, int64s, pointer
from viewmill.pipelines.executors.host.writing import form_of, normalisation_of
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.spec import ViewSpec


class RenderSettings:
    """What a spec and a view format mean to the kernel, at an address; it has to outlive every call.

    Args:
        spec, view_format: what is made.
    """

    def __init__(self, spec: ViewSpec, view_format: ViewFormat) -> None:
        self._sizes = np.array(spec.sizes, np.int64)
        self._bicubic = np.array([view.interpolation == "bicubic" for view in spec.views], np.int64)
        self._normalisation = normalisation_of(spec, view_format)
        arrays = [self._sizes, self._bicubic, self._normalisation]
        self._numbers = np.array(
            [spec.num_views, form_of(view_format), *(array.ctypes.data for array in arrays)], np.int64
        )

    @property
    def address(self) -> int:
        """The last argument of `render_function`."""
        return int(self._numbers.ctypes.data)


def render_function() -> Any:
    """The function, for `ctypes` and for compiled code: it makes all views of one image, without the GIL.

    (address of (H, W, 3) uint8 pixels, H, W, address of a row of `plan_table`, address of V addresses that
    the views are written to, address of the settings) -> 1, or 0: a box leaves the image. All are int64.
    """
    return _RENDER.ctypes


def _make() -> Any:
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
