"""Constants of this machine: parts measured alone, and the rest fitted to trainings on one rank."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from viewmill.engine.checks import resolve_views
from viewmill.engine.config import RunConfig
from viewmill.pipelines.executors.executor import resolved_name
from viewmill.tools.planning.images import Images, images_of
from viewmill.tools.planning.loss_flops import loss_flops
from viewmill.tools.planning.measured import Measured, Origin, ViewCosts, host_views
from viewmill.tools.planning.parts import (
    loss_flops_per_s,
    two_ranks,
    view_seconds,
    weights_per_s,
)
from viewmill.tools.planning.trained_steps import measure_steps
from viewmill.tools.planning.workload import Workload, count_workload

# Side of the views and batch, on top of the recipe: enough to tell what grows with what.
SETTINGS = ((64, 8), (64, 16), (96, 8), (128, 8))


class Sample(NamedTuple):
    """A training of one rank: its counts, and the processor seconds that its step took."""

    config: RunConfig
    work: Workload
    step_s: float


def variant(config: RunConfig, size: int, batch_size: int) -> RunConfig:
    """The recipe at another resolution and batch."""
    base = resolve_views(config).name.partition("@")[0]
    views = config.views.model_copy(update={"preset": f"{base}@{size}"})
    return config.model_copy(update={"views": views, "batch_size": batch_size, "device": "cpu"})


def calibrate(
    config: RunConfig,
    data: str,
    *,
    settings: Sequence[tuple[int, int]] = SETTINGS,
    steps: int = 6,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Measures this machine's core with the recipe's network and method, on one rank.

    Processor seconds are fitted, not the wall's, so that other work on the machine changes little.

    Args:
        data: a data set with some batches.
        settings: (side of the views, batch) of each training; at least three.
        steps: that count, of each.

    Raises:
        ConfigError: the recipe does not run on a CPU.
    """
    tell, images = progress or (lambda _: None), images_of(data)
    tell("the parts alone")
    base = measure_parts(config, data, sorted({size for size, _ in settings}), images)
    tell(f"trainings at {len(settings)} settings")
    configs = [variant(config, *setting) for setting in settings]
    times = measure_steps(configs, data, world_size=1, steps=steps)
    samples = [
        Sample(chosen, count_workload(chosen), found.cpu_s)
        for chosen, found in zip(configs, times, strict=True)
    ]
    return fit_steps(base, samples, images)


def measure_parts(config: RunConfig, data: str, sides: Sequence[int], images: Images) -> Measured:
    """All but the network's own speed, which stands at 1."""
    of_two = two_ranks()
    of_views = [variant(config, side, 16) for side in (sides[0], sides[-1])]
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return Measured(
            source=f"viewmill plan --calibrate: {config.model.backbone}, {config.method.name}, one core",
            of=Origin(
                device="cpu",
                precision=config.precision,
                backbone=config.model.backbone,
                compiled=config.model.compile,
                method=config.method.name,
                executor=resolved_name(config.views.executor, "cpu"),
            ),
            shares_cores=True,
            conv_flops_per_s=1.0,
            matmul_flops_per_s=1.0,
            loss_flops_per_s=loss_flops_per_s(),
            weights_per_s=weights_per_s(),
            step_overhead_s=0.0,
            global_norm_call_s=of_two.global_norm_call_s,
            global_norm_s=of_two.global_norm_s,
            rank_gb_s=of_two.rank_gb_s,
            latency_s=of_two.latency_s,
            views=fit_views([(one, view_seconds(one, data)) for one in of_views], images),
        )
    finally:
        torch.set_num_threads(torch_threads)


def fit_views(measured: Sequence[tuple[RunConfig, float]], images: Images) -> ViewCosts:
    """Seconds a pixel of the views from two resolutions; the rest is shared out as in the stored figures."""
    (small, small_s), (large, large_s) = measured
    pixels = [count_workload(config).view_pixels for config in (small, large)]
    per_pixel = max(0.0, (large_s - small_s) / (pixels[1] - pixels[0]))
    rest = max(0.0, small_s - per_pixel * pixels[0])
    stored = host_views()
    of_image = stored.image_s / (stored.image_s + stored.source_pixel_s * images.mean_pixels)
    return ViewCosts(
        source="viewmill plan --calibrate: the run's loader alone, one core",
        image_s=rest * of_image,
        source_pixel_s=rest * (1 - of_image) / images.mean_pixels,
        view_pixel_s=per_pixel,
    )


def fit_steps(base: Measured, samples: Sequence[Sample], images: Images) -> Measured:
    """What is left of the steps when the known parts are taken away, as

        seconds = products of the network / F + n i + o

    by least squares of the relative errors, no term negative (Lawson and Hanson 1974). F is one speed for
    convolutions and linear layers together: a CPU runs both by the same library.
    """
    from scipy.optimize import nnls

    rows, rest = [], []
    for sample in samples:
        work, n = sample.work, sample.config.batch_size
        known = n * base.views.of_image(images.mean_pixels, work.view_pixels)
        known += loss_flops(sample.config, work, 1) / base.loss_flops_per_s
        known += work.weights / base.weights_per_s
        rows.append([n * work.step_flops, n, 1.0])
        rest.append(sample.step_s - known)
    scale = 1 / np.array([sample.step_s for sample in samples])
    matrix = np.array(rows) * scale[:, None]
    size = np.abs(matrix).max(axis=0)  # the columns differ by ten orders of magnitude
    found, _ = nnls(matrix / size, np.array(rest) * scale)
    per_flop, per_image, per_step = (found / size).tolist()
    if per_flop <= 0:
        raise RuntimeError("the steps do not grow with their arithmetic: measure again on a calmer machine")
    return base.model_copy(
        update={
            "conv_flops_per_s": 1 / per_flop,
            "matmul_flops_per_s": 1 / per_flop,
            "image_overhead_s": per_image,
            "step_overhead_s": per_step,
        }
    )
