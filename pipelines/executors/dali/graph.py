"""DALI's graph of the views, in a file of its own: conditionals need the source of the function."""

from typing import Any

import numpy as np
from nvidia.dali import fn, math, pipeline_def, types
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


def regions_of(plan: ViewPlan) -> np.ndarray:
    """What the views see of every image: (n, 4) int32 top, left, bottom, right; pixels, the ends excluded."""
    starts = [side.min(axis=1) for side in (plan.top, plan.left)]
    ends = [(plan.top + plan.height).max(axis=1), (plan.left + plan.width).max(axis=1)]
    return np.stack(starts + ends, axis=1).astype(np.int32)


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
def view_graph(
    spec: ViewSpec, view_format: ViewFormat, device: str, decodes_regions: bool
) -> tuple[Any, ...]:
    """Encoded images and their plan rows to the views of `spec`, in the dtype and layout asked for.

    An image is decoded once, as a whole or a region of it. Every operator is in the graph of every view,
    behind a condition, so any plan is carried out, also one that the preset would never draw.

    Args:
        spec: sizes, interpolations, mean and deviation; the draws come from the plan.
        view_format: (3, S, S) or (S, S, 3), normalised or not.
        device: "cpu", or "mixed" to decode and augment on the GPU.
        decodes_regions: whether the input "region", (top, left, bottom, right) int32, is there.
    """
    encoded = fn.external_source(name="images", device="cpu", batch=True, dtype=types.UINT8, ndim=1)
    row = fn.external_source(name="plan", device="cpu", batch=True, dtype=types.FLOAT, ndim=1)
    # Upright, EXIF being applied; regions are of the upright image too.
    if decodes_regions:
        region = fn.external_source(name="region", device="cpu", batch=True, dtype=types.INT32, ndim=1)
        image = fn.decoders.image_slice(
            encoded, start=region[:2], end=region[2:], axes=[0, 1], device=device, output_type=types.RGB
        )
    else:
        image = fn.decoders.image(encoded, device=device, output_type=types.RGB)
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
