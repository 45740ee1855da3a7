"""Tiles of the bundled photographs: labelled, reproducible, train and test apart."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from viewmill.tools.photographs import PHOTOGRAPHS, SPLITS, cells_of, cut_tiles, encode_jpeg, load_photograph
from viewmill.tools.sample_data import write_sample_data

NAME = re.compile(r"\d{4}_y(\d+)_x(\d+)_s(\d+)\.jpg")
OPTIONS = {"size": 32, "tiles": 8, "test_tiles": 5, "variation": 1.0, "seed": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "photographs"
    write_sample_data(folder, **OPTIONS)
    return folder


def painted(folder: Path, split: str, name: str) -> np.ndarray:
    """Which pixels of the photograph lie in a tile of this split, read from the names of the files."""
    mask = np.zeros(load_photograph(name).shape[:2], dtype=bool)
    for file in (folder / split / name).iterdir():
        match = NAME.fullmatch(file.name)
        assert match is not None
        top, left, side = map(int, match.groups())
        mask[top : top + side, left : left + side] = True
    return mask


def grey_spread(tiles: list[np.ndarray]) -> float:
    """Mean distance of a tile's mean colour from grey."""
    means = np.stack([tile.reshape(-1, 3).mean(axis=0) for tile in tiles])
    return float(np.abs(means - means.mean(axis=1, keepdims=True)).mean())


def tiles_of(name: str, variation: float) -> list[np.ndarray]:
    return [tile for _, tile in cut_tiles(name, "train", 12, size=32, variation=variation, seed=0)]


def test_every_photograph_gives_a_class_of_as_many_tiles_as_asked_for(folder: Path) -> None:
    for split, count in zip(SPLITS, (8, 5), strict=True):
        counts = {path.name: len(list(path.iterdir())) for path in (folder / split).iterdir()}
        assert counts == dict.fromkeys(PHOTOGRAPHS, count)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_train_and_test_tiles_share_no_pixel(folder: Path, name: str) -> None:
    train, test = painted(folder, "train", name), painted(folder, "test", name)
    assert train.any()
    assert test.any()
    assert not (train & test).any()


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_the_cells_of_the_two_splits_cover_a_photograph_once(seed: int) -> None:
    for photograph, (height, width) in enumerate([(512, 512), (191, 384), (872, 1000)]):
        covered = np.zeros((height, width), dtype=np.int64)
        for split in SPLITS:
            for cell in cells_of(height, width, split, seed, photograph):
                covered[cell.top : cell.bottom, cell.left : cell.right] += 1
        assert (covered == 1).all()


def test_without_variation_a_tile_is_the_square_that_its_box_says() -> None:
    photo = load_photograph("temple")
    for box, tile in cut_tiles("temple", "test", 4, size=48, variation=0.0, seed=3):
        square = Image.fromarray(photo[box.top : box.top + box.side, box.left : box.left + box.side])
        assert np.array_equal(tile, np.asarray(square.resize((48, 48), Image.Resampling.BICUBIC)))


def test_a_written_tile_shows_what_was_cut() -> None:
    tile = tiles_of("cat", 1.0)[0]
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(tile)))).astype(np.int64)
    assert np.abs(decoded - tile).mean() < 4  # JPEG at quality 92


def test_variation_gives_colour_casts_that_a_grey_photograph_does_not_have() -> None:
    assert grey_spread(tiles_of("brick", 0.0)) == 0
    assert grey_spread(tiles_of("brick", 1.0)) > 5


def test_the_same_options_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_sample_data(tmp_path / "again", **OPTIONS)
    files = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    assert len(files) == len(PHOTOGRAPHS) * 13 + 1
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (folder / file).read_bytes()


def test_another_seed_cuts_other_tiles() -> None:
    boxes = [
        [box for box, _ in cut_tiles("grass", "train", 5, size=8, variation=1.0, seed=s)] for s in (0, 1)
    ]
    assert boxes[0] != boxes[1]


def test_a_folder_in_use_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="is not empty; give a new folder"):
        write_sample_data(folder, **OPTIONS)
