"""All views of one image: the kernel's entry point from Python."""

import numpy as np
from numba import carray
from viewmill.pipelines.executors.host.compiled import SOURCES, compiled, kept
from viewmill.pipelines.executors.host.kernel import COLUMNS, render_view, scratch_floats
from viewmill.pipelines.executors.host.pointers import pointer
from viewmill.pipelines.executors.host.writing import bytes_of
from viewmill.pipelines.plans.planner import ViewPlan


def plan_table(plan: ViewPlan) -> np.ndarray:
    """The plan as the kernel takes it: (n, V, len(COLUMNS)) float64, C-contiguous."""
    return np.stack([getattr(plan, name).astype(np.float64) for name in COLUMNS], axis=2)


@compiled
def _box_fits(plan, height, width):
    inside = plan[0] >= 0 and plan[1] >= 0 and plan[2] >= 1 and plan[3] >= 1
    return inside and plan[0] + plan[2] <= height and plan[1] + plan[3] <= width


def _entry_points():
    sources = SOURCES  # in the closures, and so in the key of what is kept

    def render_image(rgb, plan, sizes, bicubic, normalisation, form, memory, scratch):
        """All views of one image; those whose box leaves the image are left out, and True says that none was.

        Args:
            rgb: (H, W, 3) uint8, C-contiguous, upright.
            plan: (V, 11) float64, of `plan_table`.
            sizes, bicubic: (V,) int64 and bool.
            normalisation, form: see `render_view`.
            memory: (V,) int64 addresses of 3 * size * size items each.
            scratch: at least `scratch_for` float32.
        """
        fit = sources != 0
        for view in range(len(sizes)):
            if not _box_fits(plan[view], rgb.shape[0], rgb.shape[1]):
                fit = False
                continue
            out = carray(pointer(memory[view]), 3 * sizes[view] * sizes[view] * bytes_of(form))
            render_view(rgb, plan[view], sizes[view], bicubic[view], normalisation, form, out, scratch)
        return fit

    def scratch_for(rgb, plan, sizes, bicubic):
        """float32 numbers of scratch memory that `render_image` needs."""
        most = sources * 0
        for view in range(len(sizes)):
            # A box that leaves the image is not rendered, however large it is.
            height = max(min(int(plan[view, 2]), rgb.shape[0]), 1)
            width = max(min(int(plan[view, 3]), rgb.shape[1]), 1)
            floats = scratch_floats(height, width, sizes[view], bicubic[view], plan[view, 9])
            most = max(most, floats)
        return most

    return kept(render_image), kept(scratch_for)


render_image, scratch_for = _entry_points()
