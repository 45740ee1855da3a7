"""DALI's graph of the views made of its own operators: what a GPU runs."""

from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, math, pipeline_def, types
from viewmill.pipelines.executors.dali.regions import regions_of
from viewmill.pipelines.executors.view_format import ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec

# One float32 row a sample carries its plan: these columns, view after view; the box comes first.
COLUMNS = (
    "top", "left", "height", "width",
    "brightness", "contrast", "saturation", "hue", "coloured",
    "sigma", "solarize", "flip",
)  # fmt: skip
DTYPES = {  # DALI writes no bfloat16; its users cast
    "uint8": types.UINT8,
    "float16": types.FLOAT16,
    "bfloat16": types.FLOAT,
    "float32": types.FLOAT,
}
INTERPOLATIONS = {"bicubic": types.INTERP_CUBIC, "bilinear": types.INTERP_LINEAR}


class OperatorGraph:
    """Decodes what the views see of an image and makes each of them by DALI's operators.

    Args:
        spec, view_format: what is made.
        device_id: of the GPU that decodes and augments; None: the CPU.
        max_batch: most images of one run.
        num_threads: DALI's worker threads; they do not change the pixels.

    Raises:
        RuntimeError: the GPU cannot be used.
    """

    def __init__(
        self,
        spec: ViewSpec,
        view_format: ViewFormat,
        *,
        device_id: int | None,
        max_batch: int,
        num_threads: int,
    ) -> None:
        self._view_format = view_format
        self._pipeline = view_graph(
            spec,
            view_format,
            "cpu" if device_id is None else "mixed",
            batch_size=max_batch,
            num_threads=num_threads,
            device_id=device_id,
            prefetch_queue_depth=1,  # inputs are pushed; reading ahead is the Loader's
            exec_dynamic=True,
            seed=0,  # nothing in the graph draws
        )
        self._pipeline.build()  # a GPU that is not there is an error here, not at the first batch

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        """The views of these images, in memory of their own.

        Raises:
            RuntimeError: DALI failed; this graph is of no use any more.
        """
        regions = regions_of(plan)
        outputs = self._pipeline.run(
            images=[np.frombuffer(image, np.uint8) for image in images],
            region=regions,
            plan=plan_rows(plan, regions[:, :2]),
        )
        # No copy: the dynamic executor never writes again to a buffer that it has handed out.
        views = [torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs]
        if self._view_format.channels_last:
            views = [view.permute(0, 3, 1, 2) for view in views]
        return [view.to(self._view_format.torch_dtype) for view in views]  # bfloat16 alone is not DALI's


def plan_rows(plan: ViewPlan, origins: np.ndarray) -> np.ndarray:
    """The plan as DALI is fed it: (n, V * len(COLUMNS)) float32; pixels below 2^24 are exact.

    origins: (n, 2) top and left of what is decoded of every image.
    """
    coloured = (
        (plan.brightness != 1) | (plan.contrast != 1) | (plan.saturation != 1) | (plan.hue != 0)
    )  # skips one view in six under DINO's distribution
    other = {
        "coloured": coloured,
        "top": plan.top - origins[:, :1],
        "left": plan.left - origins[:, 1:],
    }
    columns = [other[name] if name in other else getattr(plan, name) for name in COLUMNS]
    rows_nVC = np.stack([np.asarray(column, np.float32) for column in columns], axis=2)
    return rows_nVC.reshape(len(plan), -1)


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def view_graph(spec: ViewSpec, view_format: ViewFormat, device: str) -> tuple[Any, ...]:
    """Encoded images and their plan rows to the views of `spec`, in the dtype and layout asked for.

    In a file of its own, for DALI's conditionals need the source of the function. A region of an image is
    decoded once. Every operator is in the graph of every view,
    behind a condition, so any plan is carried out, also one that the preset would never draw.

    Args:
        spec: sizes, interpolations, mean and deviation; the draws come from the plan.
        view_format: (3, S, S) or (S, S, 3), normalised or not.
        device: "cpu", or "mixed" to decode and augment on the GPU.
    """
    encoded = fn.external_source(name="images", device="cpu", batch=True, dtype=types.UINT8, ndim=1)
    row = fn.external_source(name="plan", device="cpu", batch=True, dtype=types.FLOAT, ndim=1)
    # Upright, EXIF being applied; regions are of the upright image too.
    region = fn.external_source(name="region", device="cpu", batch=True, dtype=types.INT32, ndim=1)
    image = fn.decoders.image_slice(
        encoded, start=region[:2], end=region[2:], axes=[0, 1], device=device, output_type=types.RGB
    )
    views = []
    for view, distribution in enumerate(spec.views):
        first = view * len(COLUMNS)
        value = {name: row[first + COLUMNS.index(name)] for name in COLUMNS[4:]}
        start = row[first : first + 2]
        # The filter may see pixels outside the box, as DALI's own random_resized_crop does: 0.02 of 255
        # in the mean of photographs. Slicing first would avoid it and costs 12 % of the whole graph.
        pixels = fn.resize(
            image,
            size=[distribution.size, distribution.size],
            roi_start=start,
            roi_end=start + row[first + 2 : first + 4],
            interp_type=INTERPOLATIONS[distribution.interpolation],
            antialias=True,
        )
        # From here on float32: rounding to uint8 is the dearest part of DALI's colour and blur.
        # Colour takes uint8, though: for float input the centre of contrast would be 0.5, not 128.
        coloured = value["coloured"] > 0
        if coloured:
            pixels = fn.color_twist(
                pixels,
                brightness=value["brightness"],
                contrast=value["contrast"],
                saturation=value["saturation"],
                hue=value["hue"],
                dtype=types.FLOAT,
            )
            pixels = math.max(math.min(pixels, 255.0), 0.0)  # half the time of math.clamp
        else:
            pixels = fn.cast(pixels, dtype=types.FLOAT)
        blurred = value["sigma"] > 0
        if blurred:  # DALI's default window: radius ceil(3 sigma), reflect-101
            pixels = fn.gaussian_blur(pixels, sigma=value["sigma"])
        solarized = value["solarize"] > 0
        if solarized:
            pixels = pixels + fn.cast(pixels >= 128.0, dtype=types.FLOAT) * (255.0 - 2.0 * pixels)
        # Flipping last is flipping first: colour is pointwise and the blur symmetric.
        views.append(
            fn.crop_mirror_normalize(
                pixels,
                mirror=fn.cast(value["flip"], dtype=types.INT32),
                mean=[255 * channel for channel in spec.mean] if view_format.normalised else 0.0,
                std=[255 * channel for channel in spec.std] if view_format.normalised else 1.0,
                dtype=DTYPES[view_format.dtype],
                output_layout="HWC" if view_format.channels_last else "CHW",
            )
        )
    return tuple(views)
