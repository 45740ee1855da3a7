"""Three principal components of dense features as colours: places that are alike have one colour."""

# n images, C channels, H x W places, P = n H W

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COLOURS = 3
CUT = 0.01  # share of places at either end of a component that is drawn at the end of the scale


@dataclass(frozen=True)
class Colours:
    """What every place of the images is drawn in."""

    rgb: np.ndarray  # (n, H, W, 3) float32, 0 to 1; 0 where it is background
    foreground: np.ndarray | None  # (n, H, W) bool
    explained: tuple[float, ...]  # share of the variance in each component, of the places that are drawn


def principal_colours(
    columns: Tensor, *, widths: Sequence[int] | None = None, foreground: bool = False
) -> Colours:
    """The first three principal components of all places of all images, as red, green and blue.

    One projection for the whole set, so that a colour means the same on every image. Channels are
    standardised over the set first, since stages differ in scale by orders of magnitude, and each stage has
    the same variance in all: the last one has half of the channels, and would blur the rest. Source: HyDeS,
    figure 4 (there an image has a projection of its own, and the scaling is not told).

    Args:
        columns: (n, C, H, W): hypercolumns or the patch tokens of a ViT.
        widths: channels of each stage, C in all; None: one stage.
        foreground: the first component divides the places in two (`foreground_of`), and the colours are the
            components of the foreground alone (Oquab et al. 2023, DINOv2, section 7.1).

    Raises:
        ValueError: fewer than three channels, or columns that are not finite.
    """
    num_images, channels, height, width = columns.shape
    if channels < COLOURS:
        raise ValueError(
            f"components: {COLOURS} colours need {COLOURS} channels, the features have {channels}"
        )
    if not torch.isfinite(columns).all():
        raise ValueError("components: the features are not finite; the weights have diverged")
    share = torch.cat([torch.full((width,), width**-0.5) for width in widths or [channels]])
    rows = standardised(columns.permute(0, 2, 3, 1).reshape(-1, channels)) * share
    shape = (num_images, height, width)
    mask = None
    if foreground:
        first, _ = projected(rows, 1)
        mask = foreground_of(first[:, 0].reshape(shape))
        rows = standardised(rows[torch.from_numpy(mask.ravel())]) * share
    values, explained = projected(rows, COLOURS)
    rgb = np.zeros((num_images * height * width, COLOURS), dtype=np.float32)
    rgb[slice(None) if mask is None else mask.ravel()] = stretched(values)
    return Colours(rgb.reshape(*shape, COLOURS), mask, explained)


def projected(rows: Tensor, count: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """The first components of centred rows (P, C): (P, count), and the share of the variance of each.

    The sign of a component is that which makes its largest weight positive. Where the rows have fewer
    dimensions, the rest is 0.
    """
    covariance = rows.T.double() @ rows.double() / max(1, len(rows))
    power, basis = torch.linalg.eigh(covariance)
    power, basis = power.flip(0)[:count].clamp(min=0), basis.flip(1)[:, :count]
    basis = basis * basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)).sign()
    total = float(covariance.trace())
    return (rows.double() @ basis).numpy(), tuple((power / total).tolist() if total > 0 else [0.0] * count)


def standardised(rows: Tensor) -> Tensor:
    """Mean 0 and variance 1 in every channel; a channel that never changes becomes 0."""
    mean, std = rows.mean(dim=0), rows.std(dim=0, correction=0)
    return (rows - mean) / torch.where(std > 1e-6 * mean.abs() + 1e-12, std, torch.inf)


def stretched(values: np.ndarray) -> np.ndarray:
    """Each column to 0..1 between its 1 % and 99 % quantiles, a little beyond them cut off."""
    low, high = np.quantile(values, [CUT, 1 - CUT], axis=0)
    # A few planted colours leave no room between quantiles of a rare one: then the ends count.
    flat = high - low <= 1e-9 * np.abs(values).max(initial=1e-30)
    low, high = np.where(flat, values.min(axis=0), low), np.where(flat, values.max(axis=0), high)
    return np.clip((values - low) / np.maximum(high - low, 1e-30), 0, 1).astype(np.float32)


def foreground_of(first: np.ndarray) -> np.ndarray:
    """Which places of (n, H, W) are foreground: those beyond Otsu's threshold, away from the edges.

    A component has no sign of its own; things in the middle of images touch their edges less than what is
    behind them.
    """
    from skimage.filters import threshold_otsu

    if np.ptp(first) == 0:
        return np.ones(first.shape, dtype=bool)
    above = first > threshold_otsu(first)
    edge = np.ones(first.shape[1:], dtype=bool)
    edge[1:-1, 1:-1] = False
    is_above_at_the_edge = above[:, edge].mean() / max(above.mean(), 1e-12)
    is_below_at_the_edge = (~above)[:, edge].mean() / max((~above).mean(), 1e-12)
    return above if is_above_at_the_edge < is_below_at_the_edge else ~above
