"""Where the host executor's time goes: decoding, crop and resize, colour, blur, layout, one after the other.

The kernel has no clock inside, which would be part of what it measures. It is run on the same decoded images
with plans that leave a stage out, and a stage is the difference; layout is its own last function run alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from rich.table import Table
from viewmill.pipelines.executors.host.executor import Renderer
from viewmill.pipelines.executors.host.image import plan_table
from viewmill.pipelines.executors.host.writing import FLOAT32, write_row
from viewmill.pipelines.executors.view_format import ViewFormat, ViewMemory
from viewmill.pipelines.plans.planner import ViewPlan, ViewPlanner
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.tools.tables import new_table

STAGES = ("decode", "crop and resize", "colour and solarize", "blur", "layout")
# The plans by what is left out, each of one stage more than the one before.
_NEUTRAL = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "solarize": False}


def waterfall(encoded: Sequence[bytes], spec: ViewSpec, repeats: int) -> dict[str, Any]:
    """CPU milliseconds an image of every stage, on one thread, float32 views.

    Args:
        encoded: a batch.
        repeats: rounds; the figures are medians.

    Returns:
        JSON-able: stages (ms), kernel (ms, all but decoding), decode_bound (images/s of a core that does
        nothing else).
    """
    renderer = Renderer(spec, ViewFormat())
    rgbs = [renderer.decoder.decode(image).copy() for image in encoded]
    sizes = np.array([(rgb.shape[1], rgb.shape[0]) for rgb in rgbs])
    plan = ViewPlanner(spec, seed=0).draw(0, np.arange(len(rgbs)), sizes)
    unblurred = changed(plan, sigma=0)
    memory = ViewMemory(ViewFormat())
    addresses = np.array([memory.take(1, size).data_ptr() for size in spec.sizes], np.int64)
    lines = np.zeros(3 * (max(spec.sizes) + 16), np.float32)
    out = np.empty(12 * max(spec.sizes) ** 2, np.uint8)
    works: dict[str, Callable[[], None]] = {
        "decode": lambda: _decode(renderer, encoded),
        "layout": lambda: _lay_out(lines, np.array(spec.sizes), out, len(rgbs)),
        "resized": partial(_render, renderer, rgbs, changed(unblurred, **_NEUTRAL), addresses),
        "coloured": partial(_render, renderer, rgbs, unblurred, addresses),
        "blurred": partial(_render, renderer, rgbs, plan, addresses),
    }
    rounds = [{name: _cpu_ms(work, len(rgbs)) for name, work in works.items()} for _ in range(repeats + 1)]
    # The first round warms up and is not counted.
    spent = {name: float(np.median([times[name] for times in rounds[1:]])) for name in works}
    stages = {
        "decode": spent["decode"],
        "crop and resize": spent["resized"] - spent["layout"],
        "colour and solarize": spent["coloured"] - spent["resized"],
        "blur": spent["blurred"] - spent["coloured"],
        "layout": spent["layout"],
    }
    return {"stages": stages, "kernel": spent["blurred"], "decode_bound": 1000 / spent["decode"]}


def changed(plan: ViewPlan, **values: float) -> ViewPlan:
    """The plan with one value of a parameter in all its views."""
    return replace(plan, **{name: np.full_like(getattr(plan, name), value) for name, value in values.items()})


def table(found: dict[str, Any]) -> Table:
    """The stages, for the terminal."""
    total = found["stages"]["decode"] + found["kernel"]
    rows = [
        (stage, f"{found['stages'][stage]:.2f}", f"{100 * found['stages'][stage] / total:.0f} %")
        for stage in STAGES
    ]
    title = f"host, by stage; a core that only decodes makes {found['decode_bound']:.0f} images/s"
    return new_table(title, ("stage", "CPU ms/image", "share"), [*rows, ("all", f"{total:.2f}", "")])


def _cpu_ms(work: Callable[[], None], num_images: int) -> float:
    """CPU milliseconds an image."""
    began_s = time.process_time()
    work()
    return 1000 * (time.process_time() - began_s) / num_images


def _decode(renderer: Renderer, encoded: Sequence[bytes]) -> None:
    for image in encoded:
        renderer.decoder.decode(image)


def _render(renderer: Renderer, rgbs: list[np.ndarray], plan: ViewPlan, addresses: np.ndarray) -> None:
    for rgb, rows in zip(rgbs, plan_table(plan), strict=True):
        renderer.render(rgb, rows, addresses)


@njit  # type: ignore[untyped-decorator]
def _lay_out(lines: np.ndarray, sizes: np.ndarray, out: np.ndarray, num_images: int) -> None:
    for _ in range(num_images):
        for size in sizes:
            for y in range(size):
                write_row(lines, 0, size, size, y, FLOAT32, out)
