"""A decoder for FFCV's pipeline that decodes an image once and makes all its views, as a plan says.

It can stand in any FFCV pipeline over an image field, FFCV's own Loader included: sample i of the field has
row i of the plan. FFCV compiles it together with the rest of the pipeline, and there it calls the kernel of
the host executor.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import carray
from viewmill.pipelines.executors.ffcv.library import (
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    imdecode,
)
from viewmill.pipelines.executors.host.callback import render_views, settings_for
from viewmill.pipelines.executors.host.image import plan_table
from viewmill.pipelines.executors.host.kernel import COLUMNS
from viewmill.pipelines.executors.host.pointers import int64s, pointer
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.containers.beton import JPEG

DONE = 0  # the status of an image whose views are made; any other: it was refused, and its views are not set


class LivePlan:
    """The plan that a compiled decoder reads now.

    numba makes a constant of every array that a function closes over, so the function closes over the address
    of two numbers instead: where the plan lies, and how many rows it has.
    """

    def __init__(self) -> None:
        self._cell = np.zeros(2, np.int64)
        self._table = np.zeros(0)

    @property
    def address(self) -> int:
        """Of the two numbers; they do not move."""
        return int(self._cell.ctypes.data)

    def set(self, plan: ViewPlan) -> None:
        """Row i of this plan is sample i's from now on; no decoder may be at work."""
        self._table = plan_table(plan)
        self._cell[:] = self._table.ctypes.data, len(plan)


class PlannedViews(SimpleRGBImageDecoder):
    """FFCV's decoder of an image field into V views: V arrays (n, bytes of a view) uint8, then (n, 1) status.

    The memory of the views is that of a view format's tensors. An image that libjpeg-turbo refuses, or warns
    of, has a status other than `DONE`; so has one that has no row in the plan, or a box that leaves it.

    A subclass of FFCV's plainest decoder because FFCV takes only those for a decoder.

    FFCV's own Loader marks a type of numba's as read-only for the whole process (uint8[::1], in its manager
    of mapped pages), and what is compiled after that cannot write to such arrays: make a `Stage` or an
    executor of the same views and view format before the first of FFCV's Loaders.

    Args:
        spec, view_format: what is made.
        plan: set before FFCV runs, and whenever it stands still.
    """

    def __init__(self, spec: ViewSpec, view_format: ViewFormat, plan: LivePlan) -> None:
        super().__init__()
        self.spec = spec
        self.view_format = view_format
        self.plan = plan

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, tuple[AllocationQuery, ...]]:
        """What FFCV asks: one array for each view, and one for the status."""
        byte = np.dtype("u1")
        shapes = [(self.view_format.bytes_of(1, size),) for size in self.spec.sizes] + [(1,)]
        state = replace(previous_state, jit_mode=True, shape=shapes[0], dtype=byte)
        return state, tuple(AllocationQuery(shape, byte) for shape in shapes)

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles."""
        read, decode_jpeg, rows_of = self.memory_read, Compiler.compile(imdecode), Compiler.get_iterator()
        live, num_views = self.plan.address, self.spec.num_views
        row_bytes = num_views * len(COLUMNS) * 8
        settings = settings_for(self.spec, self.view_format)

        def decode(batch_indices, memory, metadata, storage_state):
            cell = carray(int64s(live), 2)
            table, num_rows = cell[0], cell[1]
            for row in rows_of(len(batch_indices)):
                sample = np.int64(batch_indices[row])
                field = metadata[sample]
                height, width = np.int64(field["height"]), np.int64(field["width"])
                stored = read(field["data_ptr"], storage_state)
                status = np.int64(DONE) if sample < num_rows else np.int64(1)
                picture = np.empty((0, 0, 3), np.uint8)
                if field["mode"] == JPEG:
                    picture = np.empty((height, width, 3), np.uint8)
                    status |= decode_jpeg(
                        stored, picture, height, width, height, width, 0, 0, 1, 1, False, False
                    )
                else:
                    # Not reshaped: FFCV's own maps are read-only, which is another type to numba.
                    picture = carray(pointer(stored.ctypes.data), (height, width, 3))
                if status == DONE:
                    addresses = np.empty(num_views, np.int64)
                    for view in range(num_views):
                        addresses[view] = memory[view][row].ctypes.data
                    plan = table + sample * row_bytes
                    fits = render_views(picture, plan, addresses, settings)
                    status = np.int64(DONE) if fits else np.int64(1)
                memory[num_views][row, 0] = np.uint8(status)
            return memory

        decode.is_parallel = True  # type: ignore[attr-defined]  # what FFCV looks for
        return decode
