"""Every view of a batch of images of one padded size, by batched operations on the images' device."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from viewmill.pipelines.executors.reference import colour_map
from viewmill.pipelines.executors.resident.filters import blur_matrix, reflected, resize_matrix, taps_of
from viewmill.pipelines.plans.planner import ViewPlan
from viewmill.pipelines.plans.spec import ViewSpec

_SOLARIZED_FROM = 128.0
_BOX = ("top", "left", "height", "width", "flip")


class PlanOnDevice(NamedTuple):
    """A plan where the images are; what decides how many operations run stays with the host."""

    plan: ViewPlan
    boxes: Tensor  # (5, n, V) int64: top, left, height, width, flip
    colours: Tensor  # (n, V, 3, 4) float32: matrix and offset
    sigma: Tensor  # (n, V) float32
    solarize: Tensor  # (n, V) bool

    def select(self, rows: np.ndarray, rows_on_device: Tensor) -> "PlanOnDevice":
        """The plan of these rows."""
        there = rows_on_device
        return PlanOnDevice(
            self.plan.select(rows),
            self.boxes[:, there],
            self.colours[there],
            self.sigma[there],
            self.solarize[there],
        )


def plan_on(plan: ViewPlan, device: torch.device) -> PlanOnDevice:
    """Copies what a batch needs of its plan to the device."""
    boxes = np.stack([getattr(plan, name) for name in _BOX]).astype(np.int64)
    return PlanOnDevice(
        plan,
        *(moved(found, device) for found in (boxes, colour_maps(plan), plan.sigma, plan.solarize)),
    )


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on the device; the copy does not wait for what the device is doing."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def colour_maps(plan: ViewPlan) -> np.ndarray:
    """The affine colour map of every view, (n, V, 3, 4) float32: a matrix and, last, what it adds.

    The reference's matrix is b c (G + s cos(h) P + s sin(h) Q) for brightness b, contrast c, saturation s and
    hue h, so three of them give all; what is added is b (1 - c) of what no contrast adds.
    """
    grey, plain, turned = (
        colour_map(1, 1, saturation, hue)[0].astype(np.float64)
        for saturation, hue in ((0, 0), (1, 0), (1, 90))
    )
    brightness, contrast, saturation, hue = (
        getattr(plan, name).astype(np.float64)[:, :, None, None]
        for name in ("brightness", "contrast", "saturation", "hue")
    )
    cosine, sine = saturation * np.cos(np.deg2rad(hue)), saturation * np.sin(np.deg2rad(hue))
    matrices = brightness * contrast * (grey + cosine * (plain - grey) + sine * (turned - grey))
    middle = float(colour_map(1, 0, 1, 0)[1])
    added = np.broadcast_to(brightness * (1 - contrast) * middle, (*matrices.shape[:3], 1))
    return np.concatenate([matrices, added], axis=3).astype(np.float32)


def render(pixels: Tensor, there: PlanOnDevice, view: int, spec: ViewSpec) -> Tensor:
    """One view of n images before it is normalised.

    Args:
        pixels: (n, 3, H, W) float32 on 0..255, padded below and on the right.
        there: n rows.
        view: which one.
        spec: where its size and interpolation stand.

    Returns:
        (n, 3, S, S) float32 on 0..255.
    """
    views = _resized(pixels, there, view, spec)
    maps = there.colours[:, view]
    views = torch.baddbmm(maps[:, :, 3:], maps[:, :, :3], views.flatten(2)).view_as(views).clamp_(0, 255)
    blurred = np.flatnonzero(there.plan.sigma[:, view] > 0)
    if len(blurred):
        radius = int(np.ceil(3 * there.plan.sigma[blurred, view].astype(np.float64)).max())
        if len(blurred) == len(views):
            views = _blurred(views, there.sigma[:, view], radius)
        else:
            rows = moved(blurred, views.device)
            views[rows] = _blurred(views[rows], there.sigma[rows, view], radius)
    if there.plan.solarize[:, view].any():
        solarized = there.solarize[:, view, None, None, None] & (views >= _SOLARIZED_FROM)
        views = torch.where(solarized, 255 - views, views)
    return views


def _resized(pixels: Tensor, there: PlanOnDevice, view: int, spec: ViewSpec) -> Tensor:
    """Crop, resize and flip as two matrix products: (n, 3, S, S)."""
    size, interpolation = spec.views[view].size, spec.views[view].interpolation
    top, left, height, width, flip = there.boxes[:, :, view]
    num_images, _, image_height, image_width = pixels.shape
    mirrored = flip.bool()
    columns = resize_matrix(
        left, width, mirrored, image_width, size, interpolation,
        taps_of(int(there.plan.width[:, view].max()), size, interpolation),
    )  # fmt: skip
    rows = resize_matrix(
        top, height, torch.zeros_like(mirrored), image_height, size, interpolation,
        taps_of(int(there.plan.height[:, view].max()), size, interpolation),
    )  # fmt: skip
    narrow = torch.bmm(pixels.reshape(num_images, 3 * image_height, image_width), columns.transpose(1, 2))
    return torch.matmul(rows[:, None], narrow.view(num_images, 3, image_height, size))


def _blurred(views: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of (n, 3, S, S), clamped."""
    size = views.shape[2]
    weights = blur_matrix(sigma, radius, size)[:, None]
    border = reflected(size, radius, views.device)
    views = torch.matmul(weights, views.index_select(2, border))
    return torch.matmul(views.index_select(3, border), weights.transpose(2, 3)).clamp_(0, 255)
