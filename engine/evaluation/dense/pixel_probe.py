"""A linear probe of every pixel: a 1 x 1 convolution on hypercolumns, which are never made.

Resizing is linear and the same for every channel, so the convolution of stacked, resized maps is the sum of
each stage's own convolution, resized: C maps of classes are resized and not thousands of features. Memory
falls by the features over the classes, the function and its gradient stay the same.
"""

# n pictures of a block, F features of all stages together, C classes

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from viewmill.engine.evaluation.dense.blocks import BLOCK, GRID, SEED, Blocks, Made
from viewmill.engine.evaluation.dense.hypercolumns import Size, resized
from viewmill.engine.evaluation.linear_probe import spread
from viewmill.engine.passes.reading import together
from viewmill.engine.world import World
from viewmill.pipelines.order import SampleOrder

EPOCHS, BATCH, RATE, DECAY = 20, 32, 1e-3, 0.01
PROTOCOL = (
    f"segmentation-v1/hypercolumns/standardised/1x1/adamw-{RATE}/decay-{DECAY}/{EPOCHS}-epochs-of-{BATCH}/"
    f"grid-{GRID}"
)

Tell = Callable[[int, int], None]  # epochs done, epochs in all


@dataclass(frozen=True)
class PixelProbe:
    """Logits ((x - mean) / std) weight + bias of every pixel's hypercolumn x."""

    mean: Tensor  # (F,) as std: over the pixels of the training pictures, at each stage's own resolution
    std: Tensor  # inf: the feature never changes, and has no say
    weight: Tensor  # (C, F)
    bias: Tensor  # (C,)

    def logits(self, maps: Sequence[Tensor], size: Size) -> Tensor:
        """Maps (n, c, h, w) of each stage -> (n, C, *size)."""
        # Taken into weights and bias: the maps themselves are not copied.
        scaled = self.weight / self.std
        total = (self.bias - scaled @ self.mean)[:, None, None]
        for one, weight in zip(maps, scaled.split([one.shape[1] for one in maps], dim=1), strict=True):
            total = total + resized(F.conv2d(one, weight[:, :, None, None]), size)
        return total

    def packed(self) -> Tensor:
        """(C + 2, F + 1): weights and biases by class, then means and spreads."""
        rows = [torch.cat([self.weight, self.bias[:, None]], dim=1)]
        rows += [F.pad(numbers[None], (0, 1)) for numbers in (self.mean, self.std)]
        return torch.cat(rows).cpu()

    @classmethod
    def unpacked(cls, rows: Tensor, device: torch.device) -> "PixelProbe":
        """The probe of `packed` rows."""
        moved = rows.to(device)
        return cls(moved[-2, :-1], moved[-1, :-1], moved[:-2, :-1], moved[:-2, -1])


def train_probe(
    blocks: Blocks, num_classes: int, world: World, tell: Tell = lambda done, total: None
) -> PixelProbe:
    """The probe after 20 epochs of AdamW on batches of 32 pictures, from zero, at a constant rate.

    The loss of a batch is the mean cross-entropy over its pixels of a class, on a grid of every fourth row
    and column. A batch is eight blocks, drawn anew each epoch; their gradients are added in the batch's
    order on every rank, so that on CPUs, with as many threads, two ranks find the bits of one.

    Args:
        blocks: of the training pictures.
        tell: called after each epoch on every rank.

    Raises:
        RuntimeError: features are not finite. RankError: another rank failed. What `Blocks.made` raises.
    """
    mean, std = feature_moments(blocks, world)
    weight = torch.zeros(num_classes, len(mean), device=world.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=world.device, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=DECAY)
    probe = PixelProbe(mean, std, weight, bias)
    shape = (num_classes * (len(mean) + 1) + 1, torch.float32)
    steps = [(epoch, batch) for epoch in range(EPOCHS) for batch in batches_of(len(blocks), epoch)]
    # One walk over all epochs, so that the next batch is read while this one is computed.
    walk = blocks.made([block for _, batch in steps for block in blocks.owned(batch)])
    for number, (epoch, batch) in enumerate(steps):
        total = sum_in_order(lambda: _gradient(probe, next(walk), blocks), shape, batch, blocks, world)
        pixels = total[-1].clamp(min=1)  # a batch without one moves nothing but the decay
        gradient = (total[:-1] / pixels).view(num_classes, -1).to(world.device)
        weight.grad, bias.grad = gradient[:, :-1].contiguous(), gradient[:, -1].contiguous()
        optimizer.step()
        if number + 1 == len(steps) or steps[number + 1][0] != epoch:
            tell(epoch + 1, EPOCHS)
    return PixelProbe(mean, std, weight.detach(), bias.detach())


def batches_of(num_blocks: int, epoch: int) -> list[list[int]]:
    """The blocks of each batch of an epoch; the last batch may be short."""
    order = SampleOrder(num_blocks, SEED).ids(epoch, 0, num_blocks).tolist()
    size = BATCH // BLOCK
    return [order[start : start + size] for start in range(0, num_blocks, size)]


def sum_in_order(
    part: Callable[[], Tensor],
    shape: tuple[int, torch.dtype],
    batch: Sequence[int],
    blocks: Blocks,
    world: World,
) -> Tensor:
    """The sum over the blocks of a batch, in its order; `part` gives a row for each of this rank's, in turn.

    A row a block: those of other ranks are 0 here, and adding zeros changes no bit. Every rank calls it.

    Args:
        part: gives a row of this width and type.

    Raises:
        RankError: another rank failed.
    """
    rows = torch.zeros(len(batch), shape[0], dtype=shape[1])

    def fill() -> None:
        for place, block in enumerate(batch):
            if blocks.owns(block):
                rows[place] = part().cpu()

    together(world, fill)
    if world.world_size > 1:
        dist.all_reduce(rows)
    return rows.sum(dim=0)


def feature_moments(blocks: Blocks, world: World) -> tuple[Tensor, Tensor]:
    """Mean and spread of each feature over the pixels of the pictures, padding left out: two (F,) float32.

    Raises:
        RuntimeError: a feature is not finite; names the stage. RankError: another rank failed.
    """
    stages = blocks.columns.stages
    width = sum(stage.width for stage in stages)
    walk = blocks.made(blocks.owned(range(len(blocks))))
    totals = torch.zeros(3 * width, dtype=torch.float64)
    for start in range(0, len(blocks), BATCH // BLOCK):
        batch = range(start, min(start + BATCH // BLOCK, len(blocks)))
        totals += sum_in_order(
            lambda: _power_sums(next(walk), blocks), (3 * width, torch.float64), batch, blocks, world
        )
    sums, squares, counts = totals.split(width)
    for stage, total in zip(stages, squares.split([stage.width for stage in stages]), strict=True):
        if not bool(total.isfinite().all()):
            raise RuntimeError(
                f"the features of stage {stage.name} are not finite on the training pictures; the weights "
                "have diverged, evaluate an earlier checkpoint"
            )
    mean = sums / counts
    variance = (squares / counts - mean.square()).clamp(min=0)
    return mean.float().to(world.device), spread(mean, variance).float().to(world.device)


def _power_sums(made: Made, blocks: Blocks) -> Tensor:
    """(3 F,) float64: sums of features, of their squares, and how many there are."""
    found = []
    for maps in made.maps:
        size = (maps.shape[2], maps.shape[3])
        sums = torch.zeros(3, maps.shape[1], dtype=torch.float64, device=maps.device)
        for one, mask in zip(maps, made.masks, strict=True):
            rows, columns = blocks.canvas.inside((mask.shape[0], mask.shape[1]), size)
            inside = one[:, rows, columns].flatten(1).double()
            sums += torch.stack(
                [inside.sum(dim=1), inside.square().sum(dim=1), torch.full_like(sums[2], inside.shape[1])]
            )
        found.append(sums)
    return torch.cat(found, dim=1).flatten()


def _gradient(probe: PixelProbe, made: Made, blocks: Blocks) -> Tensor:
    """(C (F + 1) + 1,): gradient of the summed cross-entropy of a block, and its pixels of a class."""
    ignored = blocks.data.ignored
    truth = torch.stack([blocks.canvas.truth(mask, ignored, GRID) for mask in made.masks]).to(
        probe.weight.device
    )
    logits = probe.logits(made.maps, (truth.shape[1], truth.shape[2]))
    loss = F.cross_entropy(logits, truth, ignore_index=ignored, reduction="sum")
    by_weight, by_bias = torch.autograd.grad(loss, [probe.weight, probe.bias])
    rows = torch.cat([by_weight, by_bias[:, None]], dim=1)
    return torch.cat([rows.flatten(), (truth != ignored).sum().float()[None]])
