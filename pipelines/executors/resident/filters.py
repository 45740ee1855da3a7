"""The resizing and the blur of a batch of images as matrices, one an image, built on the device.

A row of such a matrix holds the weights that one pixel of the result gives the pixels of the source, so
that resizing is one batched matrix product an axis, whatever the boxes are. The weights are those of the
reference: Pillow's antialiased filters, and a Gaussian that reflects at the borders.
"""

import torch
from torch import Tensor

# Half the width of each filter, in pixels of the source where it does not shrink.
SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
_A = -0.5  # of the bicubic filter: Keys 1981, and Pillow


def resize_matrix(
    starts_n: Tensor,
    lengths_n: Tensor,
    flips_n: Tensor,
    length: int,
    size: int,
    interpolation: str,
    taps: int,
) -> Tensor:
    """Weights (n, size, length), float32, that resize one axis of n boxes; no weight lies outside its box.

    Pixel x of the result is centred at start + (x + 1/2) s, s = box / size; its weights are
    f((p + 1/2 - centre) / max(s, 1)), scaled to the sum 1 over the pixels p of the box.

    Args:
        starts_n, lengths_n: (n,) int64, the box along this axis, inside [0, length).
        flips_n: (n,) bool, whether the result is mirrored.
        length: pixels of the source.
        size: pixels of the result.
        interpolation: a key of `SUPPORT`.
        taps: at least `taps_of` the longest box.
    """
    pixels_S = torch.arange(size, device=starts_n.device)
    steps_nS = torch.where(flips_n[:, None], size - 1 - pixels_S, pixels_S)
    # float64: a centre at pixel 4,000 keeps three digits of its fraction in float32, and weights need more.
    scale_n1 = (lengths_n.double() / size)[:, None]
    stretch_n1 = scale_n1.clamp(min=1)
    centre_nS = (steps_nS + 0.5) * scale_n1  # from the box's first pixel
    first_nS = torch.floor(centre_nS - SUPPORT[interpolation] * stretch_n1 + 0.5)
    taps_K = torch.arange(taps, device=starts_n.device)
    distance_nSK = ((first_nS + 0.5 - centre_nS)[:, :, None] + taps_K) / stretch_n1[:, :, None]
    weights_nSK = _filter(distance_nSK.float(), interpolation)
    places_nSK = first_nS.long()[:, :, None] + taps_K
    inside_nSK = (places_nSK >= 0) & (places_nSK < lengths_n[:, None, None])
    weights_nSK = weights_nSK * inside_nSK
    weights_nSK = weights_nSK / weights_nSK.sum(dim=2, keepdim=True)
    # What lies outside the box goes to one more column, which nobody reads; all other places differ, so that
    # the order in which a GPU writes changes nothing.
    places_nSK = torch.where(inside_nSK, places_nSK + starts_n[:, None, None], length)
    matrix = weights_nSK.new_zeros(len(starts_n), size, length + 1)
    return matrix.scatter_(2, places_nSK, weights_nSK)[:, :, :length]


def taps_of(longest_box: int, size: int, interpolation: str) -> int:
    """Weights that a pixel of the result has at most."""
    stretch = max(longest_box / size, 1.0)
    return int(2 * SUPPORT[interpolation] * stretch) + 2


def _filter(distance: Tensor, interpolation: str) -> Tensor:
    """The filter's value; 0 beyond its support."""
    x = distance.abs()
    if interpolation == "bilinear":
        return (1 - x).clamp(min=0)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def blur_matrix(sigmas_n: Tensor, radius: int, size: int) -> Tensor:
    """Weights (n, size, size + 2 radius), float32, that blur one axis padded by `radius` on both sides.

    A Gaussian cut at ceil(3 sigma), its weights scaled to the sum 1.

    Args:
        sigmas_n: (n,) float32 > 0, pixels.
        radius: at least ceil(3 sigma) of the largest.
        size: pixels of the axis.
    """
    offsets_R = torch.arange(-radius, radius + 1, device=sigmas_n.device)
    sigmas_n1 = sigmas_n.double()[:, None]
    within_nR = offsets_R.abs() <= torch.ceil(3 * sigmas_n1)
    weights_nR = torch.exp(-0.5 * (offsets_R / sigmas_n1) ** 2) * within_nR
    weights_nR = (weights_nR / weights_nR.sum(dim=1, keepdim=True)).float()
    pixels_S = torch.arange(size, device=sigmas_n.device)
    places_SR = pixels_S[:, None] + offsets_R + radius
    shape = len(sigmas_n), size, 2 * radius + 1
    matrix = weights_nR.new_zeros(len(sigmas_n), size, size + 2 * radius)
    return matrix.scatter_(2, places_SR.expand(shape), weights_nR[:, None, :].expand(shape))


def reflected(size: int, radius: int, device: torch.device) -> Tensor:
    """Which pixel stands at each place of an axis padded by `radius`: (size + 2 radius,) int64.

    Mirrored about the border pixels, which are not repeated (reflect-101), as often as the radius needs.
    """
    period = max(2 * (size - 1), 1)
    places = torch.arange(-radius, size + radius, device=device) % period
    return torch.where(places < size, places, period - places)
