"""The reference executor: what the pixels of a view are; every other executor is held to it.

One view, float32 on 0..255: crop, resize (antialiased), flip, one affine colour map, clamp, blur, clamp,
solarize. In NumPy and Pillow, written to be read, not to be fast.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from viewmill.pipelines.executors.executor import BatchDecodeError, check_batch
from viewmill.pipelines.executors.view_format import FLOAT32, ViewFormat
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec
from viewmill.shards.errors import ImageError
from viewmill.shards.images import decode_rgb

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
# NTSC's luma and chroma to three digits, as DALI's color_twist has them; back by the exact inverse, so that a
# colour map that changes nothing changes nothing.
YIQ_OF_RGB = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])
RGB_OF_YIQ = np.linalg.inv(YIQ_OF_RGB)
_MIDDLE = 128.0  # what contrast turns about, and from where solarize inverts


class ReferenceExecutor:
    """Runs plans image by image on the CPU.

    Args:
        spec: the views.
        max_batch: most images of one run.
        num_threads: images rendered at the same time.
        view_format: dtype and layout of the views.
    """

    def __init__(
        self,
        spec: ViewSpec,
        *,
        max_batch: int,
        num_threads: int = 1,
        view_format: ViewFormat = FLOAT32,
    ) -> None:
        self.spec = spec
        self.view_format = view_format
        self._max_batch = max_batch
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="viewmill-reference")

    def run(self, images: list[bytes], plan: ViewPlan) -> list[torch.Tensor]:
        """V tensors (n, 3, S, S) of the view format, in the spec's order; image i has row i of the plan.

        Raises:
            BatchDecodeError: some images cannot be decoded; names their rows.
            ValueError: images and plan differ in length, the batch is larger than max_batch, or a box leaves
                its image (the plan was drawn for another size).
        """
        check_batch(images, plan, self.spec, self._max_batch)
        decoded = list(self._pool.map(_decode, images))
        reasons = {row: str(found) for row, found in enumerate(decoded) if isinstance(found, ImageError)}
        if reasons:
            raise BatchDecodeError(reasons)
        pictures = [found for found in decoded if isinstance(found, np.ndarray)]
        rows = self._pool.map(lambda row: self._views(pictures[row], plan, row), range(len(pictures)))
        views = (torch.from_numpy(np.stack(view)) for view in zip(*rows, strict=True))
        form = self.view_format
        return [view.to(form.torch_dtype, memory_format=form.memory_format) for view in views]

    def _views(self, rgb: np.ndarray, plan: ViewPlan, row: int) -> list[np.ndarray]:
        """All views of one image, V arrays (3, S, S)."""
        rendered = (render_view(rgb, plan, row, view, self.spec) for view in range(self.spec.num_views))
        if self.view_format.normalised:
            return [normalise(pixels, self.spec) for pixels in rendered]
        return [np.rint(pixels).transpose(2, 0, 1) for pixels in rendered]

    def close(self) -> None:
        """Give the threads back, after the images in hand; a run in another thread ends unfinished."""
        self._pool.shutdown(cancel_futures=True)


def render_view(rgb: np.ndarray, plan: ViewPlan, row: int, view: int, spec: ViewSpec) -> np.ndarray:
    """One view of one image before it is normalised.

    Args:
        rgb: (H, W, 3) uint8, upright.
        plan, row, view: whose parameters it gets.
        spec: where the view's size and interpolation stand.

    Returns:
        (S, S, 3) float32 on 0..255.

    Raises:
        ValueError: the crop box leaves the image.
    """
    at = row, view
    top, left, height, width = (int(side[at]) for side in (plan.top, plan.left, plan.height, plan.width))
    if min(top, left) < 0 or top + height > rgb.shape[0] or left + width > rgb.shape[1]:
        raise ValueError(
            f"row {row}, view {view}: the box of {width}x{height} pixels at ({left}, {top}) leaves the image "
            f"of {rgb.shape[1]}x{rgb.shape[0]}; was the plan drawn for other sizes?"
        )
    size, interpolation = spec.views[view].size, spec.views[view].interpolation
    pixels = resize(rgb[top : top + height, left : left + width], size, interpolation)
    if plan.flip[at]:
        pixels = pixels[:, ::-1]
    matrix, offset = colour_map(
        float(plan.brightness[at]), float(plan.contrast[at]), float(plan.saturation[at]), float(plan.hue[at])
    )
    pixels = np.clip(pixels @ matrix.T + offset, 0, 255)
    if plan.sigma[at] > 0:
        pixels = np.clip(blur(pixels, float(plan.sigma[at])), 0, 255)
    if plan.solarize[at]:
        pixels = np.where(pixels >= _MIDDLE, 255 - pixels, pixels)
    return np.ascontiguousarray(pixels, dtype=np.float32)


def resize(pixels: np.ndarray, size: int, interpolation: str) -> np.ndarray:
    """(H, W, 3) -> (size, size, 3) float32; the filter widens when it shrinks (antialiased). No clamp."""
    # Pillow filters whole-number pictures in fixed point and rounds twice; its float mode has one channel.
    channels = (Image.fromarray(np.ascontiguousarray(pixels[:, :, c], np.float32)) for c in range(3))
    resized = [channel.resize((size, size), _FILTERS[interpolation]) for channel in channels]
    return np.stack([np.asarray(channel) for channel in resized], axis=2)


def colour_map(
    brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[np.ndarray, np.float32]:
    """The affine map of all colour parameters: pixels @ matrix.T + offset; (3, 3) and one number, float32.

    Contrast about 128, brightness, saturation (a factor of I and Q), hue (an angle in their plane, degrees).
    What contrast adds is grey and is added last. Source: DALI's color_twist on uint8, measured on 2.4.
    """
    angle = np.deg2rad(hue)
    cosine, sine = saturation * np.cos(angle), saturation * np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])
    matrix = brightness * contrast * (RGB_OF_YIQ @ turn @ YIQ_OF_RGB)
    return matrix.astype(np.float32), np.float32(brightness * (_MIDDLE - _MIDDLE * contrast))


def blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of (H, W, 3): radius ceil(3 sigma), weights that sum to 1, reflect-101 at the borders."""
    radius = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        border = [(radius, radius) if axis == other else (0, 0) for other in range(3)]
        padded = np.pad(pixels, border, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis)
        pixels = windows @ weights
    return pixels


def normalise(pixels: np.ndarray, spec: ViewSpec) -> np.ndarray:
    """(S, S, 3) on 0..255 -> (3, S, S) float32, (x / 255 - mean) / std."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1), np.float32)


def _decode(data: bytes) -> np.ndarray | ImageError:
    try:
        return decode_rgb(data)
    except ImageError as error:
        return error
