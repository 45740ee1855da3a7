"""One size for pictures of many: scaled to a common longer side, padded to a rectangle that a net takes."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns, Size
from viewmill.engine.evaluation.dense.masks import read_mask
from viewmill.engine.evaluation.dense.pairs import Labelled, Pair
from viewmill.shards.errors import ImageError
from viewmill.shards.images import decode_rgb

STRIDE = 32  # of a net that halves its maps five times
AHEAD = 2  # blocks that are read while one is computed


@dataclass(frozen=True)
class Canvas:
    """The rectangle that a backbone is given. A picture stands in its upper left corner, the rest is 0."""

    size: Size  # H and W
    side: int  # of a picture's longer side, pixels
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def content(self, size: Size) -> Size:
        """Height and width, on the canvas, of a picture of this size."""
        return scaled(size, self.side)

    def image(self, rgb: np.ndarray) -> Tensor:
        """(h, w, 3) uint8 -> (3, H, W) float32, scaled by Pillow's bilinear filter and normalised."""
        height, width = self.content((rgb.shape[0], rgb.shape[1]))
        small = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        made = torch.zeros(3, *self.size)
        made[:, :height, :width] = (pixels - _channel(self.mean)) / _channel(self.std)
        return made

    def truth(self, mask: np.ndarray, ignored: int, step: int) -> Tensor:
        """(h, w) -> (H / step, W / step) int64: the mask at every step-th pixel; padding is ignored."""
        height, width = self.content((mask.shape[0], mask.shape[1]))
        rows, columns = (
            nearest(length, given, range(step // 2, whole, step))
            for length, given, whole in zip((height, width), mask.shape, self.size, strict=True)
        )
        made = torch.full((self.size[0] // step, self.size[1] // step), ignored)
        made[: len(rows), : len(columns)] = torch.from_numpy(mask[np.ix_(rows, columns)].astype(np.int64))
        return made

    def inside(self, size: Size, maps: Size) -> tuple[slice, slice]:
        """Rows and columns of a map whose centres lie on a picture of this size, at least one of each."""
        kept = (
            max(1, int(np.ceil(on_canvas * length / whole - 0.5)))
            for on_canvas, length, whole in zip(self.content(size), maps, self.size, strict=True)
        )
        height, width = kept
        return slice(height), slice(width)


class Block(NamedTuple):
    """A few pictures that go through a backbone together."""

    images: Tensor  # (n, 3, H, W)
    masks: list[np.ndarray]  # of their own sizes


def scaled(size: Size, side: int) -> Size:
    """The size whose longer side is `side`, the shape nearly kept."""
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def nearest(length: int, given: int, places: Iterable[int]) -> np.ndarray:
    """Which of `given` pixels is nearest to the centre of each place, where `length` pixels stand for them.

    Places beyond `length` are left out.
    """
    inside = np.array([place for place in places if place < length], dtype=np.int64)
    return (2 * inside + 1) * given // (2 * length)


def canvas_for(
    backbone: nn.Module,
    sizes: Sequence[Size],
    side: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Canvas:
    """The smallest rectangle that holds all pictures and that the backbone takes; a square, where it must be.

    Sides are multiples of 32, or of a ViT's patch.

    Args:
        sizes: height and width of every picture, pixels.
        side: of the longer side of each on the canvas, pixels.

    Raises:
        ValueError: a side that is no such multiple, or no stages of this backbone at this size.
    """
    step = _step_of(backbone)
    if side % step:
        near = max(step, round(side / step) * step)
        raise ValueError(
            f"pictures of {side} pixels: this backbone takes multiples of {step}; give --image-size {near}"
        )
    contents = [scaled(size, side) for size in set(sizes)]
    height, width = (-(-max(one[axis] for one in contents) // step) * step for axis in (0, 1))
    try:
        Hypercolumns(backbone, (height, width))
    except ValueError:
        height = width = side  # a net of windows takes its own square alone
        Hypercolumns(backbone, (height, width))
    return Canvas((height, width), side, mean, std)


def read_blocks(
    blocks: Iterable[Sequence[Pair]], data: Labelled, canvas: Canvas, num_threads: int
) -> Iterator[Block]:
    """The pictures of each block, read and decoded by threads ahead of whoever computes.

    Raises:
        ImageError, ValueError, OSError: a file changed since it was surveyed.
    """

    def finished(found: list[Future[tuple[Tensor, np.ndarray]]]) -> Block:
        read = [future.result() for future in found]
        return Block(torch.stack([image for image, _ in read]), [mask for _, mask in read])

    pool = ThreadPoolExecutor(num_threads)
    try:
        waiting: deque[list[Future[tuple[Tensor, np.ndarray]]]] = deque()
        for pairs in blocks:
            waiting.append([pool.submit(_read_pair, pair, data, canvas) for pair in pairs])
            if len(waiting) > AHEAD:
                yield finished(waiting.popleft())
        while waiting:
            yield finished(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def picture(pair: Pair) -> np.ndarray:
    """(h, w, 3) uint8 of a pair's image. Raises ImageError, which names it: it does not decode."""
    try:
        return decode_rgb(pair.image.read())
    except ImageError as error:
        raise ImageError(f"image {pair.name}: {error}") from error


def _read_pair(pair: Pair, data: Labelled, canvas: Canvas) -> tuple[Tensor, np.ndarray]:
    rgb, mask = picture(pair), read_mask(pair, len(data.classes), data.ignored)
    if mask.shape != rgb.shape[:2]:
        raise ValueError(f"{pair.name}: image and mask differ in size by now; run the command again")
    return canvas.image(rgb), mask


def _step_of(backbone: nn.Module) -> int:
    """What the sides of a view must be multiples of, pixels."""
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    found = patch[0] if isinstance(patch, tuple) else patch
    # Of a net of windows, such as Swin, the patch is that of its first stage, which later ones halve.
    return found if isinstance(found, int) and found >= 8 else STRIDE


def _channel(numbers: tuple[float, float, float]) -> Tensor:
    return torch.tensor(numbers)[:, None, None]
