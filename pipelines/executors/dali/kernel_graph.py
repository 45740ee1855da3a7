"""DALI's graph on a CPU: its decoder, and the host executor's kernel as one operator of DALI's."""

import functools
import gc
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.numba.experimental import NumbaFunction
from viewmill.pipelines.executors.dali.regions import regions_of
from viewmill.pipelines.executors.host.callback import render_views, settings_for
from viewmill.pipelines.executors.host.image import plan_table
from viewmill.pipelines.executors.view_format import ViewFormat, ViewMemory
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec


class KernelGraph:
    """Decodes what the views see of an image and makes all of them in one operator: the pixels of `host`.

    Args:
        spec, view_format: what is made.
        max_batch: most images of one run.
        num_threads: DALI's worker threads, one image each at a time.
    """

    def __init__(self, spec: ViewSpec, view_format: ViewFormat, *, max_batch: int, num_threads: int) -> None:
        self._sizes = spec.sizes
        self._memory = ViewMemory(view_format)
        self._settings = settings_for(spec, view_format)
        self._pipeline = _graph(
            batch_size=max_batch,
            num_threads=num_threads,
            device_id=None,
            prefetch_queue_depth=1,  # inputs are pushed; reading ahead is the Loader's
            exec_dynamic=True,
            seed=0,  # nothing in the graph draws
        )
        self._pipeline.build()

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        """The views of these images; their memory is used again once they are garbage.

        Raises:
            RuntimeError: DALI failed; this graph is of no use any more.
        """
        views = [self._memory.take(len(images), size) for size in self._sizes]
        regions, table = regions_of(plan), plan_table(plan)
        table[:, :, :2] -= regions[:, None, :2]  # the kernel is given the region, not the image
        starts = np.array([view.data_ptr() for view in views], np.int64)
        steps = np.array([view[0].numel() * view.element_size() for view in views], np.int64)
        places = starts + np.arange(len(images))[:, None] * steps
        settings = np.full((len(images), 1), self._settings)
        (done,) = self._pipeline.run(
            images=[np.frombuffer(image, np.uint8) for image in images],
            region=regions,
            plan=table,
            memory=np.concatenate([settings, places], axis=1),
        )
        if not np.all(done.as_array()):
            raise RuntimeError("DALI's decoder gave images of another size than their headers say")
        return views


@pipeline_def
def _graph() -> Any:
    encoded = fn.external_source(name="images", device="cpu", batch=True, dtype=types.UINT8, ndim=1)
    region = fn.external_source(name="region", device="cpu", batch=True, dtype=types.INT32, ndim=1)
    plan = fn.external_source(name="plan", device="cpu", batch=True, dtype=types.FLOAT64, ndim=2)
    memory = fn.external_source(name="memory", device="cpu", batch=True, dtype=types.INT64, ndim=1)
    # Upright, EXIF being applied; regions are of the upright image too.
    seen = fn.decoders.image_slice(
        encoded, start=region[:2], end=region[2:], axes=[0, 1], device="cpu", output_type=types.RGB
    )
    return _operator()(seen, plan, memory)


@functools.cache
def _operator() -> Any:
    """The kernel as an operator. DALI compiles what it runs, for seconds, so a process makes it once.

    An operator of this kind has six outputs at most, so views are none of them: they are written where
    `memory` says, and the output is whether all of them were.
    """

    def render(done, rgb, plan, memory):
        done[0] = render_views(rgb, plan.ctypes.data, memory[1:], memory[0])

    def one_number(outputs, inputs):
        for sample in outputs[0]:
            sample[0] = 1

    operator = NumbaFunction(
        run_fn=render,
        setup_fn=one_number,
        in_types=[types.UINT8, types.FLOAT64, types.INT64],
        ins_ndim=[3, 2, 1],
        out_types=[types.UINT8],
        outs_ndim=[1],
        batch_processing=False,
    )
    gc.collect()  # what compiling leaves has finalizers, and a Ctrl-C that meets one of them is lost
    return operator
