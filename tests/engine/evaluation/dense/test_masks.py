"""Masks as numbers, and what a look at all of them finds."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.engine.evaluation.dense.masks import decode_mask, survey
from viewmill.shards.errors import ImageError

from tests.engine.evaluation.dense.scenes import CLASSES, opened, save_mask, save_scene, scene, voc_folder

MASK = np.array([[0, 1, 2], [20, 255, 3]], np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return voc_folder(tmp_path / "scenes", train=3, test=2)


def png(picture: Image.Image, **more: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "PNG", **more)
    return data.getvalue()


def test_a_palette_mask_gives_its_indices_whatever_the_colours(tmp_path: Path) -> None:
    save_mask(MASK, tmp_path / "mask.png")
    np.testing.assert_array_equal(decode_mask((tmp_path / "mask.png").read_bytes()), MASK)


def test_grey_masks_of_8_and_16_bits_give_their_values() -> None:
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(MASK))), MASK)
    wide = MASK.astype(np.uint16) * 200
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(wide))), wide)


def test_a_palette_of_few_bits_gives_its_indices() -> None:
    picture = Image.fromarray(MASK % 4).convert("P")
    picture.putdata((MASK % 4).flatten().tolist())
    np.testing.assert_array_equal(decode_mask(png(picture, bits=2)), MASK % 4)


def test_masks_of_colours_and_no_masks_at_all_are_refused() -> None:
    with pytest.raises(ImageError, match=r"one channel of class numbers .* colour type 2"):
        decode_mask(png(Image.fromarray(MASK).convert("RGB")))
    with pytest.raises(ImageError, match="colour type 0 of 1 bits"):
        decode_mask(png(Image.fromarray(MASK > 1)))
    data = io.BytesIO()
    Image.fromarray(MASK).save(data, "JPEG")
    with pytest.raises(ImageError, match="and this is a JPEG"):
        decode_mask(data.getvalue())
    whole = png(Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64)).astype(np.uint8)))
    with pytest.raises(ImageError, match="does not decode"):
        decode_mask(whole[: len(whole) // 2])


def test_a_survey_counts_pixels_by_class_without_the_ignored(folder: Path) -> None:
    data = opened(folder)
    found = survey(data)
    masks = [scene(number)[1] for number in range(3)]
    assert found.train_pixels == [sum(int((mask == label).sum()) for mask in masks) for label in range(3)]
    assert found.train_sizes == [(48, 64)] * 3
    assert found.test_sizes == [(48, 64)] * 2


def test_a_survey_has_another_hash_where_one_mask_has_another_pixel(folder: Path) -> None:
    before = survey(opened(folder)).data_hash
    assert survey(opened(folder)).data_hash == before
    mask = scene(1)[1]
    mask[0, 0] = 2
    save_mask(mask, folder / "SegmentationClass" / "s0001.png")
    assert survey(opened(folder)).data_hash != before


def test_a_mask_of_another_size_than_its_image_is_named(folder: Path) -> None:
    save_mask(scene(1)[1][:, :-1], folder / "SegmentationClass" / "s0001.png")
    with pytest.raises(ValueError, match="mask of s0001: 63x48 pixels, its image has 64x48"):
        survey(opened(folder))


def test_values_beyond_the_classes_are_named(folder: Path) -> None:
    mask = scene(1001)[1]
    mask[:2, 0] = 3, 17
    save_mask(mask, folder / "SegmentationClass" / "s1001.png")
    with pytest.raises(ValueError, match=r"mask of s1001: the values 3, 17 are no classes; .* 3 \(0 to 2\)"):
        survey(opened(folder))


def test_damaged_files_are_named(folder: Path) -> None:
    path = folder / "JPEGImages" / "s1000.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="image s1000: JPEG does not decode"):
        survey(opened(folder))
    path.write_bytes(whole)
    (folder / "SegmentationClass" / "s0000.png").write_bytes(b"<html>")
    with pytest.raises(ImageError, match="mask of s0000: no image"):
        survey(opened(folder))


def test_a_picture_in_both_splits_is_refused(folder: Path) -> None:
    save_scene(folder, "s1001", *scene(2))
    with pytest.raises(ValueError, match="s1001, which is tested, is the same picture as s0002"):
        survey(opened(folder))


def test_masks_without_any_class_are_refused(folder: Path) -> None:
    for number in range(3):
        save_mask(np.full((48, 64), 255, np.uint8), folder / "SegmentationClass" / f"s{number:04d}.png")
    with pytest.raises(ValueError, match="all pixels to learn from are ignored"):
        survey(opened(folder))
    assert len(CLASSES) == 3
