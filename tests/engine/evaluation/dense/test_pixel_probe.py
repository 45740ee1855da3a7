"""The probe of pixels: the same function as a convolution on hypercolumns, trained as AdamW would."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.dense import pixel_probe
from viewmill.engine.evaluation.dense.blocks import Blocks, Columns, Pixels
from viewmill.engine.evaluation.dense.canvas import Canvas
from viewmill.engine.evaluation.dense.hypercolumns import Hypercolumns, stacked
from viewmill.engine.evaluation.dense.overlap import confusion, counts_of, overlap_of
from viewmill.engine.evaluation.dense.pairs import Labelled
from viewmill.engine.evaluation.dense.pixel_probe import PixelProbe, batches_of, feature_moments, train_probe
from viewmill.engine.passes.reading import Reading
from viewmill.engine.world import World

from tests.engine.evaluation.dense.scenes import IGNORED, opened, voc_folder

ALONE = World(0, 1, 0, torch.device("cpu"))
CANVAS = Canvas((64, 64), 64, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """42 scenes to learn from: two batches, the last block of two pictures."""
    return opened(voc_folder(tmp_path_factory.mktemp("scenes"), train=42, test=4))


@pytest.fixture(scope="module")
def columns() -> Hypercolumns:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Hypercolumns(build_backbone("test_resnet", image_size=64).eval(), CANVAS.size)


def blocks_of(columns: Columns, data: Labelled, *, test: bool = False, keep: int = 0) -> Blocks:
    pairs = data.test if test else data.train
    return Blocks(columns, data, pairs, CANVAS, Reading(ALONE, num_threads=1), keep)


def all_of(blocks: Blocks) -> tuple[list[Tensor], list[tuple[int, int]], Tensor]:
    """Maps of all pictures by stage, sizes and truths, in the order of the blocks."""
    made = list(blocks.made(range(len(blocks))))
    maps = [torch.cat(parts) for parts in zip(*(one.maps for one in made), strict=True)]
    masks = [mask for one in made for mask in one.masks]
    truth = torch.stack([CANVAS.truth(mask, IGNORED, 4) for mask in masks])
    return maps, [(mask.shape[0], mask.shape[1]) for mask in masks], truth


def test_the_logits_are_those_of_a_1x1_convolution_on_standardised_hypercolumns() -> None:
    maps = [torch.randn(2, 3, 8, 6), torch.randn(2, 5, 4, 3)]
    mean, std = torch.randn(8), torch.rand(8) + 0.5
    convolution = nn.Conv2d(8, 4, 1)
    bias = convolution.bias
    assert bias is not None
    probe = PixelProbe(mean, std, convolution.weight[:, :, 0, 0], bias)
    for size in ((16, 12), (8, 6), (4, 3)):
        standardised = (stacked(maps, size) - mean[:, None, None]) / std[:, None, None]
        torch.testing.assert_close(probe.logits(maps, size), convolution(standardised), atol=1e-5, rtol=1e-5)


def test_the_moments_are_of_the_pixels_of_pictures_alone(columns: Hypercolumns, data: Labelled) -> None:
    blocks = blocks_of(columns, data)
    mean, std = feature_moments(blocks, ALONE)
    maps, sizes, _ = all_of(blocks)
    expected = []
    for stage in maps:
        side = stage.shape[-1]
        # The content is 48 of 64 pixels high, or wide: three quarters of each map.
        kept = [
            one[:, : side * 3 // 4].flatten(1) if size == (48, 64) else one[:, :, : side * 3 // 4].flatten(1)
            for one, size in zip(stage, sizes, strict=True)
        ]
        if side % 4 == 0:
            pixels = torch.cat(kept, dim=1).double()
            expected.append((pixels.mean(dim=1), pixels.std(dim=1, correction=0)))
    assert len(expected) >= 3
    width = sum(len(one) for one, _ in expected)
    torch.testing.assert_close(
        mean[:width].double(), torch.cat([one for one, _ in expected]), atol=1e-5, rtol=1e-5
    )
    spread = torch.cat([one for _, one in expected])
    used = std[:width].isfinite()
    torch.testing.assert_close(std[:width].double()[used], spread[used], atol=1e-5, rtol=1e-4)


def test_training_is_adamw_on_the_mean_over_the_pixels_of_each_batch(
    columns: Hypercolumns, data: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", 2)
    blocks = blocks_of(columns, data, keep=1 << 30)
    found = train_probe(blocks, 3, ALONE)
    maps, _, truth = all_of(blocks)
    inputs = (stacked(maps, (16, 16)) - found.mean[:, None, None]) / found.std[:, None, None]
    convolution = nn.Conv2d(inputs.shape[1], 3, 1)
    for value in convolution.parameters():
        nn.init.zeros_(value)
    optimizer = torch.optim.AdamW(convolution.parameters(), lr=1e-3, weight_decay=0.01)
    starts = torch.arange(len(blocks)) * 4
    for epoch in range(2):
        for batch in batches_of(len(blocks), epoch):
            rows = [
                row for block in batch for row in range(int(starts[block]), min(int(starts[block]) + 4, 42))
            ]
            optimizer.zero_grad()
            F.cross_entropy(convolution(inputs[rows]), truth[rows], ignore_index=IGNORED).backward()
            optimizer.step()
    # AdamW divides by the root of the squares: where a gradient is nearly 0, rounding decides its step.
    torch.testing.assert_close(found.weight, convolution.weight[:, :, 0, 0].detach(), atol=2e-4, rtol=1e-3)
    logits = found.logits(maps, (16, 16))
    assert (logits.argmax(dim=1) == convolution(inputs).argmax(dim=1)).double().mean() > 0.999


def test_an_epoch_has_every_block_once_and_another_order_than_the_one_before() -> None:
    first, second = batches_of(11, 0), batches_of(11, 1)
    assert [len(batch) for batch in first] == [8, 3]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(11))
    assert first != second


def test_maps_that_are_kept_give_the_bits_of_maps_that_are_made_again(
    columns: Hypercolumns, data: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", 2)
    kept, again = (blocks_of(columns, data, keep=size) for size in (1 << 30, 0))
    assert (kept.keeps, again.keeps) == (True, False)
    assert torch.equal(train_probe(kept, 3, ALONE).packed(), train_probe(again, 3, ALONE).packed())


def test_colours_that_tell_the_classes_apart_are_learnt(
    data: Labelled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixel_probe, "EPOCHS", 25)
    monkeypatch.setattr(pixel_probe, "RATE", 0.1)
    probe = train_probe(blocks_of(Pixels(CANVAS.size), data, keep=1 << 30), 3, ALONE)
    maps, _, truth = all_of(blocks_of(Pixels(CANVAS.size), data, test=True))
    found = probe.logits(maps, (16, 16)).argmax(dim=1)
    scores = overlap_of(counts_of(confusion(found, truth, 3, IGNORED)))
    assert scores.iou[1] is not None
    assert scores.iou[1] > 0.9  # the red boxes, whose borders are ignored


def test_a_probe_comes_back_from_its_rows(columns: Hypercolumns, data: Labelled) -> None:
    mean, std = feature_moments(blocks_of(columns, data, test=True), ALONE)
    probe = PixelProbe(mean, std, torch.randn(3, len(mean)), torch.randn(3))
    back = PixelProbe.unpacked(probe.packed(), torch.device("cpu"))
    for name in ("mean", "std", "weight", "bias"):
        assert torch.equal(getattr(back, name), getattr(probe, name)), name


def test_features_that_are_not_finite_are_refused_with_their_stage(data: Labelled) -> None:
    backbone = build_backbone("test_resnet", image_size=64).eval()
    with torch.no_grad():
        next(iter(backbone.layer3.parameters())).fill_(float("nan"))
    blocks = blocks_of(Hypercolumns(backbone, CANVAS.size), data, test=True)
    with pytest.raises(RuntimeError, match=r"stage layer3 are not finite .* evaluate an earlier checkpoint"):
        train_probe(blocks, 3, ALONE)
