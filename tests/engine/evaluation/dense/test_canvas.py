"""Pictures of many sizes on one canvas, and their masks with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from viewmill.engine.backbones import build_backbone
from viewmill.engine.evaluation.dense.canvas import Canvas, canvas_for, nearest, read_blocks

from tests.engine.evaluation.dense.scenes import IGNORED, opened, voc_folder

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class SquareNet(nn.Module):
    """A net of windows, as far as sizes go: it takes squares of 64 pixels alone."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(1, 5):
            setattr(self, f"layer{number}", nn.Conv2d(3, 3, 1))

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (64, 64):
            raise AssertionError("input size must be 64x64")
        for number in range(1, 5):
            images = getattr(self, f"layer{number}")(images)
        return images


def test_the_canvas_is_the_smallest_rectangle_of_whole_strides_that_holds_all() -> None:
    backbone = build_backbone("test_resnet", image_size=64)
    assert canvas_for(backbone, [(360, 480)], 256, MEAN, STD).size == (192, 256)
    assert canvas_for(backbone, [(333, 500), (375, 500)], 256, MEAN, STD).size == (192, 256)
    assert canvas_for(backbone, [(375, 500), (500, 375)], 256, MEAN, STD).size == (256, 256)
    assert canvas_for(backbone, [(10, 500)], 256, MEAN, STD).size == (32, 256)


def test_the_sides_for_a_vit_are_multiples_of_its_patch() -> None:
    backbone = build_backbone("test_vit", image_size=64)
    assert canvas_for(backbone, [(360, 480)], 112, MEAN, STD).size == (96, 112)
    with pytest.raises(ValueError, match="multiples of 16; give --image-size 96"):
        canvas_for(backbone, [(360, 480)], 100, MEAN, STD)


def test_a_net_that_takes_squares_alone_gets_a_square_and_another_size_is_refused() -> None:
    assert canvas_for(SquareNet(), [(20, 64)], 64, MEAN, STD).size == (64, 64)
    with pytest.raises(ValueError, match="does not take views of 96x96 pixels: input size must be 64x64"):
        canvas_for(SquareNet(), [(20, 64)], 96, MEAN, STD)


def test_an_image_is_scaled_and_normalised_and_zero_beyond() -> None:
    canvas = Canvas((64, 64), 64, MEAN, STD)
    made = canvas.image(np.full((24, 48, 3), 255, np.uint8))
    expected = [(1 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    assert made.shape == (3, 64, 64)
    for channel, value in zip(made, expected, strict=True):
        torch.testing.assert_close(channel[:32], torch.full((32, 64), value))
    assert not made[:, 32:].any()


def test_the_truth_is_pillows_nearest_scaling_of_the_mask_and_ignored_beyond() -> None:
    canvas = Canvas((64, 96), 90, MEAN, STD)
    mask = np.random.default_rng(0).integers(0, 9, (37, 53)).astype(np.uint8)
    made = canvas.truth(mask, IGNORED, 1)
    height, width = canvas.content((37, 53))
    small = np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    np.testing.assert_array_equal(made[:height, :width].numpy(), small)
    assert (made[height:] == IGNORED).all()
    assert (made[:, width:] == IGNORED).all()


def test_a_coarser_truth_is_every_fourth_pixel_of_the_full_one() -> None:
    canvas = Canvas((64, 96), 90, MEAN, STD)
    mask = np.random.default_rng(1).integers(0, 9, (37, 53)).astype(np.uint8)
    assert torch.equal(canvas.truth(mask, IGNORED, 4), canvas.truth(mask, IGNORED, 1)[2::4, 2::4])


def test_nearest_pixels_are_those_whose_area_holds_the_centre() -> None:
    assert nearest(4, 8, range(4)).tolist() == [1, 3, 5, 7]
    assert nearest(8, 4, range(8)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert nearest(3, 3, range(9)).tolist() == [0, 1, 2]


def test_what_is_inside_of_a_map_are_the_places_whose_centres_lie_on_the_picture() -> None:
    canvas = Canvas((64, 64), 64, MEAN, STD)
    # The content is 48 x 64: of 8 rows of 8 pixels, the sixth's centre lies at 44, the seventh's at 52.
    assert canvas.inside((48, 64), (8, 8)) == (slice(6), slice(8))
    # A strip of 2 pixels holds no centre of a row of 8, and counts as one.
    assert canvas.inside((2, 64), (8, 8)) == (slice(1), slice(8))


def test_blocks_come_in_order_with_masks_of_their_own_sizes(tmp_path: Path) -> None:
    data = opened(voc_folder(tmp_path, train=6, test=1))
    canvas = Canvas((64, 64), 64, MEAN, STD)
    groups = [[data.train[3], data.train[1]], [data.train[5]], [data.train[0]], [data.train[2]]]
    blocks = list(read_blocks(groups, data, canvas, num_threads=2))
    assert [len(block.images) for block in blocks] == [2, 1, 1, 1]
    assert [mask.shape for mask in blocks[0].masks] == [(64, 48), (48, 64)]
    alone = next(read_blocks([[data.train[1]]], data, canvas, num_threads=1))
    assert torch.equal(blocks[0].images[1], alone.images[0])
