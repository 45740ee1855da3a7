"""The peers of `bench loader`: from encoded images in memory to float32 views, each in its best form."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from viewmill.pipelines.plans.spec import ViewDistribution, ViewSpec

Transform = Callable[[bytes], list[torch.Tensor]]  # one image to its views


class DrawnBlur(v2.Transform):
    """torchvision's Gaussian blur, its kernel as wide as the drawn sigma needs: radius ceil(3 sigma)."""

    def __init__(self, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sigma = float(torch.empty(()).uniform_(*self.sigma))
        return {"kernel_size": [2 * math.ceil(3 * sigma) + 1] * 2, "sigma": [sigma] * 2}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.gaussian_blur(inpt, **params)


def torchvision_pil(spec: ViewSpec) -> Transform:
    """torchvision on Pillow images, decoded once."""
    views = [v2.Compose([*random_steps(view), v2.PILToTensor(), *closing_steps(spec)]) for view in spec.views]

    def transform(encoded: bytes) -> list[torch.Tensor]:
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        return [view(image) for view in views]

    return transform


def torchvision_tensor(spec: ViewSpec) -> Transform:
    """torchvision v2 on uint8 tensors, decoded once by torchvision."""
    views = [v2.Compose([*random_steps(view), *closing_steps(spec)]) for view in spec.views]

    def transform(encoded: bytes) -> list[torch.Tensor]:
        data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        image = decode_image(data, mode=ImageReadMode.RGB)
        return [view(image) for view in views]

    return transform


def random_steps(view: ViewDistribution) -> list[v2.Transform]:
    """The view's distribution in torchvision's operators; what never happens is left out."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(
            view.size,
            scale=view.scale,
            ratio=view.ratio,
            interpolation=v2.InterpolationMode(view.interpolation),
            antialias=True,
        ),
        v2.RandomHorizontalFlip(view.flip),
    ]
    if view.jitter:
        hue = tuple(degrees / 360 for degrees in view.hue)
        colours = v2.ColorJitter(view.brightness, view.contrast, view.saturation, hue)
        steps.append(v2.RandomApply([colours], view.jitter))
    if view.grayscale:
        steps.append(v2.RandomGrayscale(view.grayscale))
    if view.blur:
        steps.append(v2.RandomApply([DrawnBlur(view.sigma)], view.blur))
    if view.solarize:
        steps.append(v2.RandomSolarize(128, view.solarize))
    return steps


def closing_steps(spec: ViewSpec) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(spec.mean), list(spec.std))]


def lightly_dino(spec: ViewSpec) -> Transform:
    """lightly's DINOTransform on a Pillow image; its blur is Pillow's approximation by boxes.

    Raises:
        ValueError: the spec is not its kind: two global views and local ones of 96 pixels.
        ImportError: lightly is not installed; names the extra.
    """
    try:
        from lightly.transforms.dino_transform import DINOTransform
    except ImportError as error:
        raise ImportError("this peer needs lightly: pip install 'viewmill[baselines]'") from error
    first, local = spec.views[0], spec.views[-1]
    if spec.sizes != (first.size,) * 2 + (local.size,) * (spec.num_views - 2):
        raise ValueError(f"lightly's DINOTransform has no views like those of '{spec.name}'")
    transform = DINOTransform(
        global_crop_size=first.size,
        global_crop_scale=first.scale,
        local_crop_size=local.size,
        local_crop_scale=local.scale,
        n_local_views=spec.num_views - 2,
        sigmas=first.sigma,
    )
    return lambda encoded: list(transform(Image.open(io.BytesIO(encoded)).convert("RGB")))


def dali_random(spec: ViewSpec, batch_size: int, threads: int) -> Callable[[list[bytes]], Any]:
    """DALI with its own random operators: a batch of encoded images to its views."""
    from viewmill.tools.bench.random_graph import random_graph

    pipeline = random_graph(
        spec,
        batch_size=batch_size,
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
        exec_dynamic=True,
        seed=1,
    )
    pipeline.build()

    def run(images: list[bytes]) -> list[torch.Tensor]:
        outputs = pipeline.run(images=[np.frombuffer(image, np.uint8) for image in images])
        return [torch.utils.dlpack.from_dlpack(output.as_tensor()) for output in outputs]

    return run
