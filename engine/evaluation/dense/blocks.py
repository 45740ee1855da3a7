"""The maps of a split of pictures, made a block at a time, so that every number is the same on any ranks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from viewmill.engine.evaluation.dense.canvas import Block, Canvas, read_blocks
from viewmill.engine.evaluation.dense.hypercolumns import Size, Stage, resized
from viewmill.engine.evaluation.dense.pairs import Labelled, Pair
from viewmill.engine.passes.reading import Reading
from viewmill.pipelines.order import SampleOrder

BLOCK = 4  # pictures of a forward; a part of the protocol, as sums are taken block by block
GRID = 4  # the probe learns from every fourth row and column of the canvas
SEED = 0  # of the order
FLOAT32_BYTES = 4


class Columns(Protocol):
    """What makes maps of images: `Hypercolumns`, or the pixels themselves."""

    stages: list[Stage]

    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, H, W) -> (n, c, h, w) of each stage."""


class Pixels:
    """No backbone at all: the one stage is the colours of every fourth pixel, each the mean of its patch."""

    def __init__(self, size: Size) -> None:
        self.stages = [Stage("pixels", 3, (size[0] // GRID, size[1] // GRID))]

    def maps(self, images: Tensor) -> list[Tensor]:
        """(n, 3, H, W) -> (n, 3, H / 4, W / 4)."""
        return [resized(images, self.stages[0].size)]


@dataclass(frozen=True)
class Made:
    """A block's maps and masks."""

    maps: list[Tensor]  # (n, c, h, w) of each stage, on the device
    masks: list[np.ndarray]  # of their own sizes


class Blocks:
    """A split cut into blocks of four pictures, each with a rank that owns it.

    A block is always the same pictures in one forward, whoever computes it, so its maps are the same bits on
    any number of ranks of one kind of machine. Neighbours in a list are often alike (frames of a film), so
    the blocks are of the list in a keyed order.

    Args:
        pairs: the split.
        keep_bytes: maps of this rank's blocks are kept in memory where all of them fit into as many.
    """

    def __init__(
        self,
        columns: Columns,
        data: Labelled,
        pairs: Sequence[Pair],
        canvas: Canvas,
        reading: Reading,
        keep_bytes: int = 0,
    ) -> None:
        self.columns, self.canvas, self.data = columns, canvas, data
        self._reading = reading
        order = SampleOrder(len(pairs), SEED).ids(0, 0, len(pairs)).tolist()
        self.rows = [order[start : start + BLOCK] for start in range(0, len(order), BLOCK)]
        self._pairs = pairs
        picture_bytes = sum(stage.width * stage.size[0] * stage.size[1] for stage in columns.stages)
        own = sum(len(self.rows[block]) for block in self.owned(range(len(self.rows))))
        self.keeps = own * picture_bytes * FLOAT32_BYTES <= keep_bytes
        self._kept: dict[int, Made] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def owned(self, blocks: Iterable[int]) -> list[int]:
        """Those of these blocks that this rank computes."""
        return [block for block in blocks if self.owns(block)]

    def owns(self, block: int) -> bool:
        """Whether this rank computes it."""
        world = self._reading.world
        return block % world.world_size == world.rank

    def made(self, blocks: Sequence[int]) -> Iterator[Made]:
        """The maps of these blocks, in their order; what is kept is not made again.

        Raises:
            ImageError, ValueError, OSError: see `read_blocks`.
        """
        wanted = dict.fromkeys(blocks) if self.keeps else blocks
        missing = [block for block in wanted if block not in self._kept]
        read = read_blocks(
            ([self._pairs[row] for row in self.rows[block]] for block in missing),
            self.data,
            self.canvas,
            self._reading.num_threads,
        )
        for block in blocks:
            if block in self._kept:
                yield self._on_device(self._kept[block])
                continue
            made = self._forward(next(read))
            if self.keeps:
                self._kept[block] = Made([one.cpu() for one in made.maps], made.masks)
            yield made

    @torch.no_grad()
    def _forward(self, block: Block) -> Made:
        device = self._reading.world.device
        # Convolutions on the CPU are two to three times as fast in this layout.
        images = block.images.to(device, memory_format=torch.channels_last)
        return Made([one.float() for one in self.columns.maps(images)], block.masks)

    def _on_device(self, made: Made) -> Made:
        return Made([one.to(self._reading.world.device) for one in made.maps], made.masks)
