"""The backbones that a segmentation compares: each gets a probe of its own, and is tested with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from viewmill.engine.agreement import from_rank_zero
from viewmill.engine.evaluation.backbone_source import BackboneSource
from viewmill.engine.evaluation.contenders import TRAINED
from viewmill.engine.evaluation.dense.blocks import Blocks, Columns, Made, Pixels
from viewmill.engine.evaluation.dense.canvas import Canvas, read_blocks
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns, resized
from viewmill.engine.evaluation.dense.masks import Survey
from viewmill.engine.evaluation.dense.overlap import confusion, counts_of
from viewmill.engine.evaluation.dense.pairs import Labelled
from viewmill.engine.evaluation.dense.pixel_probe import PROTOCOL, PixelProbe, train_probe
from viewmill.engine.evaluation.feature_cache import Key, TensorCache
from viewmill.engine.evaluation.features import ready
from viewmill.engine.evaluation.untrained import (
    SEEDS,
    STATISTICS_IMAGES,
    fresh_backbone,
    has_batchnorm,
    settle_batchnorm,
    statistics_ids,
)
from viewmill.engine.identity import weights_hash
from viewmill.engine.passes.reading import Reading, together

COLOURS = "colours"  # the floor: the same probe of a pixel's colour alone
STATISTICS_BATCH = (
    16  # pictures of a forward; fixed, as in `untrained`, and smaller: pictures are larger here
)


@dataclass(frozen=True)
class Contest:
    """What all entrants share."""

    data: Labelled
    known: Survey
    canvas: Canvas
    reading: Reading
    cache: TensorCache
    keep_bytes: int  # for the maps of the training pictures, on each rank


@dataclass(frozen=True)
class Entrant:
    """Something that makes maps of images; `identity` holds all that its probe depends on beside the data."""

    name: str
    identity: Key
    columns: Columns


@dataclass(frozen=True)
class Tested:
    """What became of the test pixels, the same on every rank."""

    counts: Tensor  # (n, 3, C) int64: see `counts_of`, of each picture
    confusion: Tensor  # (C, C) int64: true class, predicted class


def entrants_of(source: BackboneSource, contest: Contest) -> list[Entrant]:
    """The trained backbone, an untrained one a seed, and colours.

    The BatchNorm statistics of the untrained ones are of training pictures, with the padding of their canvas;
    there is none where all pictures have one shape.

    Raises:
        ImageError, ValueError, OSError: a file changed since the survey. RankError: another rank failed.
    """
    device = contest.reading.world.device
    newborn = {seed: fresh_backbone(source.build, seed) for seed in SEEDS}
    named = {TRAINED: source.backbone} | {f"untrained seed {seed}": one for seed, one in newborn.items()}
    identities: dict[str, Key] = {
        name: {"about": source.about, "weights": weights_hash(backbone)} for name, backbone in named.items()
    }
    if has_batchnorm(source.backbone):
        for seed in SEEDS:
            statistics = [contest.known.data_hash, STATISTICS_IMAGES, STATISTICS_BATCH]
            identities[f"untrained seed {seed}"]["statistics"] = statistics
        together(
            contest.reading.world,
            lambda: settle_batchnorm(list(newborn.values()), _spread_images(contest), device),
        )
    size = contest.canvas.size
    found = [
        Entrant(name, identities[name], Hypercolumns(ready(backbone, device), size))
        for name, backbone in named.items()
    ]
    return [*found, Entrant(COLOURS, {"what": COLOURS}, Pixels(size))]


def probe_of(entrant: Entrant, contest: Contest) -> PixelProbe:
    """The entrant's probe: what the cache has, or one that is trained now and kept.

    Raises:
        As `train_probe`.
    """
    world, cache = contest.reading.world, contest.cache
    canvas = contest.canvas
    key: Key = {
        "what": "pixel probe",
        "protocol": PROTOCOL,
        "entrant": entrant.identity,
        "data": contest.known.data_hash,
        "canvas": [canvas.size, canvas.side, canvas.mean, canvas.std],
        "device": world.device.type,
    }
    if from_rank_zero(world, partial(cache.has, key)):
        return PixelProbe.unpacked(together(world, partial(cache.load, key)), world.device)
    blocks = _blocks(entrant, contest, train=True)
    probe = train_probe(
        blocks,
        len(contest.data.classes),
        world,
        lambda done, total: contest.reading.tell(f"probe of {entrant.name}", done, total),
    )
    from_rank_zero(world, partial(cache.store, key, probe.packed()))
    return probe


def tested(entrant: Entrant, probe: PixelProbe, contest: Contest) -> Tested:
    """Counts of the test pixels, each picture at its mask's own size, once over all ranks.

    Raises:
        RuntimeError: features are not finite. RankError: another rank failed.
        ImageError, ValueError, OSError: a file changed since the survey.
    """
    world, num_classes = contest.reading.world, len(contest.data.classes)
    blocks = _blocks(entrant, contest, train=False)
    counts = torch.zeros(len(contest.data.test), 3, num_classes, dtype=torch.int64)
    matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    own = blocks.owned(range(len(blocks)))

    def count() -> None:
        for done, (block, made) in enumerate(zip(own, blocks.made(own), strict=True)):
            for row, found, mask in zip(
                blocks.rows[block], predictions(probe, made, contest.canvas), made.masks, strict=True
            ):
                one = confusion(
                    found, torch.from_numpy(mask.astype(np.int64)), num_classes, contest.data.ignored
                )
                matrix.add_(one)
                counts[row] = counts_of(one)
            contest.reading.tell(f"test of {entrant.name}", done + 1, len(own))

    together(world, count)
    if world.world_size > 1:
        for numbers in (counts, matrix):
            dist.all_reduce(numbers)  # integers: exact
    return Tested(counts, matrix)


@torch.no_grad()
def predictions(probe: PixelProbe, made: Made, canvas: Canvas) -> Iterator[Tensor]:
    """The likeliest class of every pixel of a block's pictures, at their masks' sizes: (h, w) int64, CPU.

    Raises:
        RuntimeError: features are not finite.
    """
    logits = probe.logits(made.maps, canvas.size)
    if not bool(logits.isfinite().all()):
        raise RuntimeError(
            "the features of test pictures are not finite; the weights have diverged, evaluate an earlier "
            "checkpoint"
        )
    for one, mask in zip(logits, made.masks, strict=True):
        size = (mask.shape[0], mask.shape[1])
        height, width = canvas.content(size)
        yield resized(one[None, :, :height, :width], size)[0].argmax(dim=0).cpu()


def predicted(entrant: Entrant, probe: PixelProbe, rows: Sequence[int], contest: Contest) -> list[np.ndarray]:
    """What an entrant takes the pixels of some test pictures for: (h, w) of each; no collective."""
    pairs = ([contest.data.test[row]] for row in rows)
    device = contest.reading.world.device
    found = []
    for block in read_blocks(pairs, contest.data, contest.canvas, contest.reading.num_threads):
        with torch.no_grad():
            maps = entrant.columns.maps(block.images.to(device, memory_format=torch.channels_last))
        found += [one.numpy() for one in predictions(probe, Made(maps, block.masks), contest.canvas)]
    return found


def _blocks(entrant: Entrant, contest: Contest, *, train: bool) -> Blocks:
    pairs = contest.data.train if train else contest.data.test
    keep = contest.keep_bytes if train else 0
    return Blocks(entrant.columns, contest.data, pairs, contest.canvas, contest.reading, keep)


def _spread_images(contest: Contest) -> Iterator[Tensor]:
    """Training pictures as `statistics_ids` spreads them, the same on every rank: (n, 3, H, W)."""
    batches = statistics_ids(len(contest.data.train), STATISTICS_BATCH)
    pairs = ([contest.data.train[row] for row in rows] for rows in batches)
    read = read_blocks(pairs, contest.data, contest.canvas, contest.reading.num_threads)
    for done, block in enumerate(read):
        contest.reading.tell("BatchNorm statistics", done + 1, len(batches))
        yield block.images
