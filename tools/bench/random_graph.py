"""DALI's own random operators on the shape of our graph: what a plan is measured against."""

from typing import Any

from nvidia.dali import fn, pipeline_def, types
from viewmill.pipelines.executors.dali.operator_graph import INTERPOLATIONS
from viewmill.pipelines.plans.spec import Range, ViewSpec

SOLARIZED = [float(value if value < 128 else 255 - value) for value in range(256)]


@pipeline_def(enable_conditionals=True)  # type: ignore[untyped-decorator]
def random_graph(spec: ViewSpec) -> tuple[Any, ...]:
    """Encoded images to the views of `spec`, every parameter drawn by DALI in the graph."""
    encoded = fn.external_source(name="images", device="cpu", batch=True, dtype=types.UINT8, ndim=1)
    image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    views = []
    for view in spec.views:
        pixels = fn.random_resized_crop(
            image,
            size=[view.size, view.size],
            random_area=list(view.scale),
            random_aspect_ratio=list(view.ratio),
            interp_type=INTERPOLATIONS[view.interpolation],
            antialias=True,
        )
        jitter = fn.random.coin_flip(probability=view.jitter, dtype=types.BOOL)
        gray = fn.random.coin_flip(probability=view.grayscale, dtype=types.BOOL)
        coloured = jitter or gray
        if coloured:
            applied = fn.cast(jitter, dtype=types.FLOAT)
            kept = 1.0 - fn.cast(gray, dtype=types.FLOAT)
            pixels = fn.color_twist(
                pixels,
                brightness=1.0 + applied * uniform(view.brightness, 1.0),
                contrast=1.0 + applied * uniform(view.contrast, 1.0),
                saturation=kept * (1.0 + applied * uniform(view.saturation, 1.0)),
                hue=applied * uniform(view.hue, 0.0),
            )
        blurred = fn.random.coin_flip(probability=view.blur, dtype=types.BOOL)
        if blurred:
            pixels = fn.gaussian_blur(pixels, sigma=fn.random.uniform(range=list(view.sigma)))
        solarized = fn.random.coin_flip(probability=view.solarize, dtype=types.BOOL)
        if solarized:
            pixels = fn.lookup_table(pixels, keys=list(range(256)), values=SOLARIZED, dtype=types.UINT8)
        views.append(
            fn.crop_mirror_normalize(
                pixels,
                mirror=fn.random.coin_flip(probability=view.flip),
                mean=[255 * channel for channel in spec.mean],
                std=[255 * channel for channel in spec.std],
                dtype=types.FLOAT,
                output_layout="CHW",
            )
        )
    return tuple(views)


def uniform(bounds: Range, neutral: float) -> Any:
    """A draw from the range, as a distance from the neutral value."""
    return fn.random.uniform(range=[bounds[0] - neutral, bounds[1] - neutral])
